-- Purpose: every score with a number that stands for its (prompt, image) in joins; null where it is not finite.
-- Grain:   one (prompt, image) that occurs in a pair.
-- Inputs:  scores.
-- The lines between `each scorer` and `end` are repeated for every scorer of the run; the line between `each number`
-- and `end` is left out where a table has row numbers of its own, or where no number is asked for.
select
    -- each number
    {number} as score_id,
    -- end
    prompt_id,
    image_uid,
    -- each scorer
    case when isfinite({scorer}_score) then {scorer}_score end as {scorer}_score,
    -- end
from scores
