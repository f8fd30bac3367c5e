-- Purpose: the pairs whose place differs most between two rankings.
-- Grain:   one pair that both rank, the farthest moved first.
-- Inputs:  first_ranking, second_ranking; prompts.
-- Parameters: $limit, how many.
select
    one.pair_id,
    prompts.prompt,
    one.percentile as percentile_one,
    two.percentile as percentile_two,
    one.rank as rank_one,
    two.rank as rank_two,
    one.selected as selected_one,
    two.selected as selected_two
from first_ranking as one
inner join second_ranking as two using (pair_id)
left join prompts on one.prompt_id = prompts.prompt_id
order by abs(one.percentile - two.percentile) desc, one.pair_id
limit $limit
