-- Purpose: one page of the ranking's pairs, with everything that says why each stands where it stands.
-- Grain:   one ranked pair.
-- Inputs:  report_ranking, pair_scores, prompts.
-- Parameters: $filter, text that the prompt contains, in any case ('' for all); $order, one of the words below;
--             $cut, the rank of the last selected pair; $limit; $offset.
-- The lines between `each scorer` and `end` are repeated for every scorer of the run.
with matching as (
    select prompt_id
    from prompts
    where $filter <> '' and contains(lower(prompt), lower($filter))
),

page as (
    select
        *,
        case $order
            when 'best' then rank
            when 'worst' then -rank
            when 'cut' then abs(rank - $cut - 0.5)
            -- each scorer
            when '{scorer}_disputed' then {scorer}_margin
            when '{scorer}_agreed' then -{scorer}_margin
            -- end
        end as place
    from report_ranking
    where $filter = '' or prompt_id in (select prompt_id from matching)
    order by place, rank
    limit $limit offset $offset
)

select
    page.pair_id,
    prompts.prompt,
    page.preferred_uid,
    page.rejected_uid,
    page.quality,
    page.rank,
    page.percentile,
    page.selected,
    page.passed_over,
    pair_scores.psi_preferred,
    pair_scores.psi_rejected,
    -- each scorer
    page.{scorer}_preferred,
    page.{scorer}_rejected,
    page.{scorer}_margin,
    -- end
from page
left join prompts using (prompt_id)
left join pair_scores using (pair_id)
order by page.place, page.rank
