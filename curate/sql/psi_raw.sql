-- Purpose: psi without normalisation; only for scores that lie in [0, 1] by themselves, such as HPSv2.
-- Grain:   one (prompt, image) that an eligible pair uses.
-- Inputs:  used_scores, psi_weights (one row, `<scorer>_weight`).
-- The lines between `each scorer` and `end` are repeated for every scorer that psi weighs.
select
    prompt_id,
    image_uid,
    (
        0
        -- each scorer
        + {scorer}_weight * {scorer}_score
        -- end
    ) / (
        0
        -- each scorer
        + {scorer}_weight
        -- end
    ) as psi
from used_scores
cross join psi_weights
