-- Purpose: psi, the weighted mean of the normalised scores, beside every score of the run.
-- Grain:   one (prompt, image) that an eligible pair uses.
-- Inputs:  normalised, psi_weights (one row, `<scorer>_weight`).
-- The lines between `each weighed` and `end` are repeated for every scorer that psi weighs, those between
-- `each scorer` and `end` for every scorer of the run.
select
    normalised.score_id,
    -- each scorer
    normalised.{scorer}_score,
    -- end
    (
        0
        -- each weighed
        + psi_weights.{weighed}_weight * normalised.{weighed}_unit
        -- end
    ) / (
        0
        -- each weighed
        + psi_weights.{weighed}_weight
        -- end
    ) as psi
from normalised
cross join psi_weights
