-- Purpose: every score with a number and two hashes that stand for its (prompt, image) in joins; null where it is not
--          finite.
-- Grain:   one (prompt, image) that occurs in a pair.
-- Inputs:  scores.
-- Hashes take a third of the memory of the ids: what is joined by them need not be spilled. Two images of one prompt
-- with one hash (chance 5 in 10^11 for 100 million images, 20 of each prompt) would join their pairs twice, which
-- `curate rank` refuses. A null has a hash, too: ids without one name no picture.
-- The lines between `each scorer` and `end` are repeated for every scorer of the run; the line between `each number`
-- and `end` is left out where a table has row numbers of its own, or where no number is asked for, the one between
-- `each id` and `end` where no id is.
select
    -- each number
    {number} as score_id,
    -- end
    -- each id
    {id},
    -- end
    hash(prompt_id) as prompt_hash,
    hash(image_uid) as image_hash,
    -- each scorer
    case when isfinite({scorer}_score) then {scorer}_score end as {scorer}_score,
    -- end
from scores
where prompt_id is not null and image_uid is not null
