-- Purpose: the pairs that can be ranked, with their sides named by the human's preference.
-- Grain:   one pair of `pairs` that is no tie and whose two images have every score that psi weighs.
-- Inputs:  sided, usable.
select
    sided.pair_id,
    sided.prompt_id,
    sided.preferred_uid,
    sided.rejected_uid,
    sided.preferred_id,
    usable.score_id as rejected_id
from sided
inner join usable
    on hash(sided.rejected_uid) = usable.image_hash and hash(sided.prompt_id) = usable.prompt_hash
