-- Purpose: psi_preferred - psi_rejected where the aesthetic and CLIP margins reach their thresholds; no other ranks.
-- Grain:   one eligible pair.
-- Inputs:  pair_scores.
-- Scorers: aesthetic, clip.
-- Source:  the multi-preference consistent filtering of LPO (arXiv 2502.01051), without its VQA threshold.
-- Parameter: aesthetic_least number = -0.5 from -inf to inf: least margin of the aesthetic score.
-- Parameter: clip_least number = 0 from -inf to inf: least margin of the CLIP score.
select
    pair_id,
    case
        when aesthetic_margin >= $aesthetic_least and clip_margin >= $clip_least then psi_preferred - psi_rejected
    end as quality
from pair_scores
