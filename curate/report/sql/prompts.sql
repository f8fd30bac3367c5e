-- Purpose: prompts for a map: at most $most with a selected pair and $most others, chosen by a hash of the id.
-- Grain:   one prompt of a ranked pair.
-- Inputs:  report_ranking, prompts.
-- Parameters: $most.
-- The lines between `each tower` and `end` stand once, for the tower whose embedding makes the map.
-- `of_kind` counts all prompts of a row's kind, so that a sample can say what it is a sample of.
with by_prompt as (
    select
        prompt_id,
        count(*) as pairs,
        count(*) filter (where selected) as selected_pairs
    from report_ranking
    group by prompt_id
),

placed as (
    select
        prompt_id,
        pairs,
        selected_pairs,
        count(*) over (partition by selected_pairs > 0) as of_kind,
        row_number() over (partition by selected_pairs > 0 order by md5(prompt_id), prompt_id) as place
    from by_prompt
)

select
    placed.prompt_id,
    prompts.prompt,
    placed.pairs,
    placed.selected_pairs,
    placed.of_kind,
    -- each tower
    prompts.{tower}_embedding as embedding,
    -- end
from placed
inner join prompts using (prompt_id)
where placed.place <= $most
order by placed.prompt_id
