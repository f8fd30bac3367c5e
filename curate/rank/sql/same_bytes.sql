-- Purpose: pairs whose two images are one picture under two uids: nothing can be learned from them.
-- Grain:   one eligible pair that no filter left out.
-- Inputs:  eligible, images, repeated_bytes, left_out.
with twins as (
    select images.image_uid, images.sha256
    from images
    semi join repeated_bytes on hash(images.sha256) = repeated_bytes.bytes_hash
)

select
    eligible.pair_id,
    'same_image' as reason
from eligible
inner join twins as preferred on eligible.preferred_uid = preferred.image_uid
inner join twins as rejected
    on eligible.rejected_uid = rejected.image_uid and preferred.sha256 = rejected.sha256
anti join left_out using (pair_id)
