-- Purpose: chance, as a control: a number in [0, 1) that follows from the seed and the pair's id alone.
-- Grain:   one eligible pair.
-- Inputs:  pair_scores.
-- Source:  the control of every selection experiment.
-- Parameter: seed integer = 0 from 0 to 4294967295: another seed, another order.
select
    pair_id,
    md5_number_lower($seed::varchar || ':' || pair_id) / 18446744073709551616.0 as quality
from pair_scores
