-- Purpose: the pairs that can be ranked, with their sides named by the human's preference, and every score of both.
-- Grain:   one pair of `pairs` that is no tie and whose two images have every score that psi weighs.
-- Inputs:  sided, usable.
-- The lines between `each scorer` and `end` are repeated for every scorer of the run.
select
    sided.pair_id,
    sided.prompt_id,
    sided.preferred_uid,
    sided.rejected_uid,
    -- each scorer
    sided.{scorer}_preferred,
    -- end
    sided.preferred_id,
    -- each scorer
    usable.{scorer}_score as {scorer}_rejected,
    -- end
    usable.score_id as rejected_id
from sided
inner join usable
    on hash(sided.rejected_uid) = usable.image_hash and hash(sided.prompt_id) = usable.prompt_hash
