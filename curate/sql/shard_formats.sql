-- Purpose: in which formats the images of the selected pairs are encoded.
-- Grain:   one format.
-- Inputs:  ranking, images.
select distinct images.format
from ranking
inner join images on images.image_uid in (ranking.preferred_uid, ranking.rejected_uid)
where ranking.selected
order by images.format
