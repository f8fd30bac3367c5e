-- Purpose: the same rows as used_scores.sql, of a table whose scores are numbered from 0: a bit for each of them says
--          whether an eligible pair uses it, in half the time of a join and a hundredth of its memory.
-- Grain:   one (prompt, image), however many pairs it occurs in.
-- Inputs:  eligible, scored.
-- The line between `each last` and `end` names the greatest score_id; DuckDB marks at most a billion.
-- The lines between `each scorer` and `end` are repeated for every scorer that psi weighs.
with marked as (
    select
        -- each last
        bitstring_agg(preferred_id, 0, {last}) | bitstring_agg(rejected_id, 0, {last}) as bits
        -- end
    from eligible
)

select
    -- each scorer
    {scorer}_score,
    -- end
    score_id
from scored
cross join marked
where get_bit(marked.bits, score_id::integer) = 1
