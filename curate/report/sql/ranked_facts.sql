-- Purpose: everything that a condition may ask of a ranked pair: what a filter may, and where the pair stands.
-- Grain:   one ranked pair.
-- Inputs:  report_ranking, pair_facts.
-- The ranking's columns come first: a source may keep others of these names.
select
    report_ranking.rank,
    report_ranking.quality,
    report_ranking.percentile,
    report_ranking.selected,
    report_ranking.passed_over,
    pair_facts.*
from report_ranking
inner join pair_facts using (pair_id)
