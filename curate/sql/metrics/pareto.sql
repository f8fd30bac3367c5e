-- Purpose: by non-dominated front over all scorers' margins, the first front best; within a front by the calibrated odds.
-- Grain:   one eligible pair.
-- Inputs:  fronts, calibrated.
-- Source:  the Pareto fronts of CaPO (arXiv 2502.02588), here over margins.
-- The probability that the judgement is right lies in (0, 1), so it never moves a pair to another front.
select
    fronts.pair_id,
    1 / (1 + exp(-calibrated.log_odds)) - fronts.front as quality
from fronts
inner join calibrated using (pair_id)
