-- Purpose: the log-odds that each human judgement is right, by the fitted weights of all scorers' margins.
-- Grain:   one eligible pair; null where a margin is.
-- Inputs:  pair_scores, calibration_weights (one row, `<scorer>_weight`).
-- The lines between `each scorer` and `end` are repeated for every scorer of the run.
select
    pair_scores.pair_id,
    (
        0
        -- each scorer
        + calibration_weights.{scorer}_weight * pair_scores.{scorer}_margin
        -- end
    ) as log_odds
from pair_scores
cross join calibration_weights
