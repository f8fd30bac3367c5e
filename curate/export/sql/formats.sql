-- Purpose: in which formats the images of the selected pairs are encoded, and whether --resize makes them smaller.
-- Grain:   one format, of images that shrink or do not.
-- Inputs:  ranking, images.
-- Parameters: $resize_px: the most that the shorter side may have; null: any.
with selected as (
    select unnest([preferred_uid, rejected_uid]) as image_uid
    from ranking
    where selected
)

select distinct
    images.format,
    coalesce(least(images.width, images.height) > $resize_px::integer, false) as shrinks
from images
semi join selected using (image_uid)
order by all
