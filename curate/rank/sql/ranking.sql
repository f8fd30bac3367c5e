-- Purpose: the ranking as it is stored, best first.
-- Grain:   one ranked pair.
-- Inputs:  ranked, eligible, passed_over (rank, reason).
-- Parameters: $last_rank, the rank of the last pair that is selected; $base_pairs, how many are ranked.
-- The lines between `each scorer` and `end` are repeated for every scorer of the run.
select
    eligible.pair_id,
    eligible.prompt_id,
    eligible.preferred_uid,
    eligible.rejected_uid,
    ranked.quality,
    ranked.rank,
    1 - (ranked.rank - 1) / greatest($base_pairs - 1, 1) as percentile,
    ranked.rank <= $last_rank and passed_over.reason is null as selected,
    passed_over.reason as passed_over,
    -- each scorer
    eligible.{scorer}_preferred,
    eligible.{scorer}_rejected,
    eligible.{scorer}_preferred - eligible.{scorer}_rejected as {scorer}_margin,
    -- end
from ranked
inner join eligible on ranked.pair_number = eligible.rowid
left join passed_over using (rank)
order by ranked.rank
