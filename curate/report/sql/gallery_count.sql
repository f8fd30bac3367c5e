-- Purpose: how many ranked pairs a gallery has: those that fit some text and a condition.
-- Grain:   one row.
-- Inputs:  report_ranking, prompts, where_result.
-- Parameters: $filter, $asked, as in gallery.sql.
with matching as (
    select prompt_id
    from prompts
    where $filter <> '' and contains(lower(prompt), lower($filter))
)

select count(*) as pairs
from report_ranking
where
    ($filter = '' or starts_with(pair_id, $filter) or prompt_id in (select prompt_id from matching))
    and (not $asked or pair_id in (select pair_id from where_result where kept))
