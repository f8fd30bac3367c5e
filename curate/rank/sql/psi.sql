-- Purpose: psi, the weighted mean of the normalised scores.
-- Grain:   one (prompt, image) that an eligible pair uses.
-- Inputs:  normalised, psi_weights (one row, `<scorer>_weight`).
-- The lines between `each scorer` and `end` are repeated for every scorer that psi weighs.
select
    normalised.score_id,
    (
        0
        -- each scorer
        + psi_weights.{scorer}_weight * normalised.{scorer}_unit
        -- end
    ) / (
        0
        -- each scorer
        + psi_weights.{scorer}_weight
        -- end
    ) as psi
from normalised
cross join psi_weights
