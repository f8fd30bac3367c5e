-- Purpose: how many ranked pairs have a prompt that contains some text.
-- Grain:   one row.
-- Inputs:  report_ranking, prompts.
-- Parameters: $filter, as in gallery.sql.
with matching as (
    select prompt_id
    from prompts
    where $filter <> '' and contains(lower(prompt), lower($filter))
)

select count(*) as pairs
from report_ranking
where $filter = '' or prompt_id in (select prompt_id from matching)
