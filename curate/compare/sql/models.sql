-- Purpose: which models' pictures were paired, the most frequent pairing first.
-- Grain:   one ordered pair of models that some pair has.
-- Inputs:  pairs.
select
    image_0_model as model_0,
    image_1_model as model_1,
    count(*) as n_pairs
from pairs
group by image_0_model, image_1_model
order by n_pairs desc, model_0, model_1
