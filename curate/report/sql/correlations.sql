-- Purpose: how alike the scorers judge: Pearson's correlation of their margins over pairs, of their scores over pictures.
-- Grain:   one scorer beside one other (or itself), for one quantity; null where one of them is constant.
-- Inputs:  report_ranking.
-- A picture counts once for every pair it stands in.
-- The lines between `each scorer` and `end` are repeated for every scorer of the run.
with margins as not materialized (
    select
        -- each scorer
        {scorer}_margin as "{scorer}",
        -- end
    from report_ranking
),

scores as not materialized (
    select
        -- each scorer
        {scorer}_preferred as "{scorer}",
        -- end
    from report_ranking
    union all
    select
        -- each scorer
        {scorer}_rejected as "{scorer}",
        -- end
    from report_ranking
),

wide as (
    select null::varchar as quantity, null::varchar as scorer where false
    -- each scorer
    union all by name
    select 'margin' as quantity, '{scorer}' as scorer, corr(columns('(.*)'), "{scorer}") as '\1'
    from margins
    union all by name
    select 'score' as quantity, '{scorer}' as scorer, corr(columns('(.*)'), "{scorer}") as '\1'
    from scores
    -- end
),

long as (
    select *
    from wide unpivot include nulls (correlation for other in (columns(* exclude (quantity, scorer))))
)

select
    quantity,
    scorer,
    other,
    case when not isnan(correlation) then correlation end as correlation
from long
order by quantity, scorer, other
