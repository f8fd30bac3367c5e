-- Purpose: each scorer over all ranked pairs and over the selected ones: mean scores, mean margin, agreement with humans.
-- Grain:   one scorer.
-- Inputs:  report_ranking.
-- Agreement is the share of pairs with a positive margin; a margin of 0 counts half.
-- The lines between `each scorer` and `end` are repeated for every scorer of the run.
select
    null::varchar as scorer,
    null::double as mean_preferred,
    null::double as mean_rejected,
    null::double as agreement,
    null::double as selected_mean_preferred,
    null::double as selected_mean_rejected,
    null::double as selected_agreement
where false
-- each scorer
union all
select
    '{scorer}',
    avg({scorer}_preferred),
    avg({scorer}_rejected),
    avg((sign({scorer}_margin) + 1) / 2),
    avg({scorer}_preferred) filter (where selected),
    avg({scorer}_rejected) filter (where selected),
    avg((sign({scorer}_margin) + 1) / 2) filter (where selected)
from report_ranking
-- end
order by scorer
