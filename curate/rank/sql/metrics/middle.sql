-- Purpose: pairs whose margin of psi is neither small nor extreme: minus the distance of its percentile from `centre`.
-- Grain:   one eligible pair.
-- Inputs:  pair_scores.
-- Source:  after the two failures of PG-DPO (arXiv 2511.19049): small margins conflict, large ones saturate.
-- Parameter: centre number = 0.6 from 0 to 1: the percentile of the margin that ranks first.
select
    pair_id,
    -abs(percent_rank() over (order by psi_preferred - psi_rejected) - $centre) as quality
from pair_scores
