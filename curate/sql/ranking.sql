-- Purpose: a stretch of the ranking as it is stored, best first.
-- Grain:   one ranked pair.
-- Inputs:  ranked (pair_id, quality, rank), pair_scores, passed_over (rank, reason).
-- Parameters: $from_rank and $to_rank, the stretch; $last_rank, the rank of the last pair that is selected;
--             $base_pairs, how many are ranked.
-- The lines between `each scorer` and `end` are repeated for every scorer of the run.
select
    pair_scores.pair_id,
    pair_scores.prompt_id,
    pair_scores.preferred_uid,
    pair_scores.rejected_uid,
    ranked.quality,
    ranked.rank,
    1 - (ranked.rank - 1) / greatest($base_pairs - 1, 1) as percentile,
    ranked.rank <= $last_rank and passed_over.reason is null as selected,
    passed_over.reason as passed_over,
    -- each scorer
    pair_scores.{scorer}_preferred,
    pair_scores.{scorer}_rejected,
    pair_scores.{scorer}_margin,
    -- end
from ranked
inner join pair_scores using (pair_id)
left join passed_over using (rank)
where ranked.rank between $from_rank and $to_rank
order by ranked.rank
