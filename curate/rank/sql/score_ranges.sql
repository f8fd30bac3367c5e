-- Purpose: where each scorer's values lie, to see whether they can serve as psi without normalisation.
-- Grain:   one scorer.
-- Inputs:  used_scores.
-- The lines between `each scorer` and `end` are repeated for every scorer that psi weighs.
select null::varchar as scorer, null::double as least, null::double as greatest where false
-- each scorer
union all
select '{scorer}', min({scorer}_score), max({scorer}_score) from used_scores
-- end
order by scorer
