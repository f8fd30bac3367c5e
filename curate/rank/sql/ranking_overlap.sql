-- Purpose: how two rankings agree: what both select, and Spearman's rank correlation over the pairs that both rank.
-- Grain:   one row.
-- Inputs:  first_ranking, second_ranking.
with both_ranked as (
    select
        one.selected as selected_one,
        two.selected as selected_two,
        rank() over (order by one.rank) as rank_one,
        rank() over (order by two.rank) as rank_two
    from first_ranking as one
    inner join second_ranking as two using (pair_id)
)

select
    (select count(*) from first_ranking) as ranked_one,
    (select count(*) from second_ranking) as ranked_two,
    count(*) as ranked_both,
    (select count(*) from first_ranking where selected) as selected_one,
    (select count(*) from second_ranking where selected) as selected_two,
    count(*) filter (where selected_one and selected_two) as selected_both,
    corr(rank_one, rank_two) as rank_correlation
from both_ranked
