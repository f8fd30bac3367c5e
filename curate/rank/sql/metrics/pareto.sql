-- Purpose: by non-dominated front over all scorers' margins, the first front best; within a front by the calibrated odds.
-- Grain:   one eligible pair.
-- Inputs:  fronts, calibrated.
-- Source:  the Pareto fronts of CaPO (arXiv 2502.02588), here over margins.
-- The quality is minus the place in that order, 1 for the best; equal pairs share a place.
select
    fronts.pair_id,
    -rank() over (order by fronts.front, calibrated.log_odds desc) as quality
from fronts
inner join calibrated using (pair_id)
