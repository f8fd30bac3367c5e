-- Purpose: what the calibration is fitted on: every scorer's margin, preferred minus rejected, and a fold by prompt.
-- Grain:   one pair that has every scorer's margin; of more than $most_pairs, a sample of about so many.
-- Inputs:  pair_scores.
-- Parameters: $most_pairs.
-- Fold and sample follow from hashes of the ids, so that they are the same in every run.
-- The lines between `each scorer` and `end` are repeated for every scorer of the run.
with share as (
    select least(1.0, $most_pairs / greatest(count(*), 1)) as kept
    from pair_scores
)

select
    (md5_number_lower(prompt_id) % 2)::tinyint as fold,
    -- each scorer
    {scorer}_margin::double as {scorer}_margin,
    -- end
from pair_scores
cross join share
where
    (share.kept = 1 or md5_number_lower(pair_id) < share.kept * 18446744073709551615)
    -- each scorer
    and isfinite({scorer}_margin)
    -- end
order by pair_id
