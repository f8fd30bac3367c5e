-- Purpose: the bytes that several images share: a publisher gave one picture more than one uid.
-- Grain:   one number that stands for such bytes; of others, too, in 1 of 10^7 runs of a million images.
-- Inputs:  images.
select hash(sha256) as bytes_hash
from images
group by bytes_hash
having count(*) > 1
