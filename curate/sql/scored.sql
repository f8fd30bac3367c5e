-- Purpose: every score with a number that stands for its (prompt, image) in joins; null where it is not finite.
-- Grain:   one (prompt, image) that occurs in a pair.
-- Inputs:  scores.
-- The lines between `each scorer` and `end` are repeated for every scorer of the run.
select
    row_number() over () as score_id,
    prompt_id,
    image_uid,
    -- each scorer
    case when isfinite({scorer}_score) then {scorer}_score end as {scorer}_score,
    -- end
from scores
