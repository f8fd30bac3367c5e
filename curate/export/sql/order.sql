-- Purpose: the order in which the selected pairs of a ranking go into shards.
-- Grain:   one selected pair.
-- Inputs:  ranking.
-- Parameters: $seed, of the shuffle; null leaves the order by rank.
select
    pair_id,
    row_number() over (
        order by
            -- md5: the same in every version of the database, which its own hash() is not
            case when $seed::bigint is null then '' else md5($seed::bigint::varchar || ':' || pair_id) end,
            rank
    ) - 1 as place
from ranking
where selected
order by place
