-- Purpose: what `curate rank --metric qsd --max-per-prompt 10` computes, as one query without the program around it:
--          the yardstick of benchmarks/speed/rank.py.
-- Grain:   one ranked pair.
-- Inputs:  pairs, scores.
-- Parameters: $top and $most, the share that is selected and the most pairs of one prompt.
with sided as (
    select
        pair_id,
        prompt_id,
        case preference when 0 then image_0_uid else image_1_uid end as preferred_uid,
        case preference when 0 then image_1_uid else image_0_uid end as rejected_uid
    from pairs
    where preference is not null
),

used as (
    select prompt_id, preferred_uid as image_uid from sided
    union
    select prompt_id, rejected_uid as image_uid from sided
),

psi as (
    select
        scores.*,
        (
            percent_rank() over (order by clip_score)
            + percent_rank() over (order by pickscore_score)
            + percent_rank() over (order by aesthetic_score)
        ) / 3 as psi
    from scores
    semi join used using (prompt_id, image_uid)
),

measured as (
    select
        sided.*,
        preferred.psi * (1 - rejected.psi) as quality,
        preferred.clip_score as clip_preferred,
        rejected.clip_score as clip_rejected,
        preferred.clip_score - rejected.clip_score as clip_margin,
        preferred.pickscore_score as pickscore_preferred,
        rejected.pickscore_score as pickscore_rejected,
        preferred.pickscore_score - rejected.pickscore_score as pickscore_margin,
        preferred.aesthetic_score as aesthetic_preferred,
        rejected.aesthetic_score as aesthetic_rejected,
        preferred.aesthetic_score - rejected.aesthetic_score as aesthetic_margin,
        preferred.hpsv2_score as hpsv2_preferred,
        rejected.hpsv2_score as hpsv2_rejected,
        preferred.hpsv2_score - rejected.hpsv2_score as hpsv2_margin
    from sided
    inner join psi as preferred
        on sided.prompt_id = preferred.prompt_id and sided.preferred_uid = preferred.image_uid
    inner join psi as rejected
        on sided.prompt_id = rejected.prompt_id and sided.rejected_uid = rejected.image_uid
),

ranked as (
    select
        *,
        row_number() over (order by quality desc, pair_id) as rank,
        row_number() over (partition by prompt_id order by quality desc, pair_id) <= $most as allowed,
        count(*) over () as base_pairs
    from measured
),

counted as (
    select
        *,
        sum(allowed::integer) over (order by rank rows unbounded preceding) as allowed_so_far
    from ranked
)

select
    * exclude (allowed, allowed_so_far, base_pairs),
    1 - (rank - 1) / greatest(base_pairs - 1, 1) as percentile,
    allowed and allowed_so_far <= round($top * base_pairs) as selected
from counted
order by rank
