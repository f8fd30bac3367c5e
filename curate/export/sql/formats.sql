-- Purpose: in which formats the images of the selected pairs are encoded.
-- Grain:   one format.
-- Inputs:  ranking, images.
with selected as (
    select unnest([preferred_uid, rejected_uid]) as image_uid
    from ranking
    where selected
)

select distinct images.format
from images
semi join selected using (image_uid)
order by images.format
