-- Purpose: a tower's embeddings of the compared pictures.
-- Grain:   one picture, in the order of its number.
-- Inputs:  compared_pictures, images.
-- The lines between `each tower` and `end` are repeated for every tower asked for.
select
    -- each tower
    images.{tower}_embedding,
    -- end
from compared_pictures
inner join images using (image_uid)
order by compared_pictures.picture
