-- Purpose: psi_preferred - psi_rejected where every scorer agrees with the human; other pairs do not rank.
-- Grain:   one eligible pair.
-- Inputs:  pair_scores.
-- Source:  the consensus split of Semi-DPO (arXiv 2604.24952), there by CLIP, aesthetic, ImageReward, PickScore, HPSv2.
-- Parameter: least number = 0.000001 from 0 to inf: margin from which a scorer agrees; smaller ones are ties.
-- The lines between `each scorer` and `end` are repeated for every scorer of the run.
select
    pair_id,
    case
        when
            true
            -- each scorer
            and {scorer}_margin > $least
            -- end
            then psi_preferred - psi_rejected
    end as quality
from pair_scores
