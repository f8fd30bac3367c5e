-- Purpose: psi of both sides of every ranked pair, found by rank: what a page of the gallery looks up.
-- Grain:   one ranked pair.
-- Inputs:  report_ranking, pair_scores.
select
    report_ranking.rank,
    pair_scores.psi_preferred,
    pair_scores.psi_rejected
from report_ranking
inner join pair_scores using (pair_id)
order by report_ranking.rank
