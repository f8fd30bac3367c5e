-- Purpose: the ranking: every eligible pair that the metric gave a quality, best first.
-- Grain:   one pair.
-- Inputs:  pair_scores, quality (pair_id, quality).
-- Parameters: $selected_pairs, how many of the best are selected.
-- The order is total: equal qualities are ordered by pair_id.
-- The lines between `each scorer` and `end` are repeated for every scorer of the run.
with ranked as (
    select
        pair_id,
        quality::double as quality,
        row_number() over (order by quality desc, pair_id) as rank,
        count(*) over () as base_pairs
    from quality
)

select
    pair_scores.pair_id,
    pair_scores.prompt_id,
    pair_scores.preferred_uid,
    pair_scores.rejected_uid,
    ranked.quality,
    ranked.rank,
    1 - (ranked.rank - 1) / greatest(ranked.base_pairs - 1, 1) as percentile,
    ranked.rank <= $selected_pairs as selected,
    -- each scorer
    pair_scores.{scorer}_preferred,
    pair_scores.{scorer}_rejected,
    pair_scores.{scorer}_margin,
    -- end
from ranked
inner join pair_scores using (pair_id)
order by ranked.rank
