-- Purpose: a control: pairs in an order that knows nothing of their quality, the same on every machine.
-- Grain:   one eligible pair.
-- Inputs:  pair_scores.
select
    pair_id,
    hash(pair_id) / 1e20 as quality
from pair_scores
