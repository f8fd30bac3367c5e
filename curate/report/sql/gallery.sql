-- Purpose: one page of the ranking's pairs, with everything that says why each stands where it stands.
-- Grain:   one ranked pair.
-- Inputs:  report_ranking, ranked_psi, prompts, where_result.
-- Parameters: $filter, text that the prompt contains, in any case, or with which the pair's id begins ('' for all);
--             $asked, whether only pairs count that where_result keeps; $order, one of the words below; $cut, the
--             rank of the last selected pair; $limit; $offset.
-- The page is found by ranks alone; only its own pairs are then read and joined.
-- The lines between `each scorer` and `end` are repeated for every scorer of the run.
with matching as (
    select prompt_id
    from prompts
    where $filter <> '' and contains(lower(prompt), lower($filter))
),

page as (
    select
        rank,
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
    where
        ($filter = '' or starts_with(pair_id, $filter) or prompt_id in (select prompt_id from matching))
        and (not $asked or pair_id in (select pair_id from where_result where kept))
    order by place, rank
    limit $limit offset $offset
),

shown as (
    select *
    from report_ranking
    where rank in (select rank from page)
),

scored as (
    select rank, psi_preferred, psi_rejected
    from ranked_psi
    where rank in (select rank from page)
),

texts as (
    select prompt_id, prompt
    from prompts
    where prompt_id in (select prompt_id from shown)
)

select
    shown.pair_id,
    texts.prompt,
    shown.preferred_uid,
    shown.rejected_uid,
    shown.quality,
    shown.rank,
    shown.percentile,
    shown.selected,
    shown.passed_over,
    scored.psi_preferred,
    scored.psi_rejected,
    -- each scorer
    shown.{scorer}_preferred,
    shown.{scorer}_rejected,
    shown.{scorer}_margin,
    -- end
from page
inner join shown using (rank)
left join texts using (prompt_id)
left join scored using (rank)
order by page.place, page.rank
