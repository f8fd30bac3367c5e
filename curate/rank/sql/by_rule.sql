-- Purpose: the pairs that can be ranked, with their sides named by a rule's preference instead of the human's.
-- Grain:   one pair of `shown`; where the rule takes neither side it stays as it is.
-- Inputs:  shown (as `eligible`, with image 0 on the preferred side), shown_scores (as `pair_scores`, of these).
-- The line between `each lead` and `end` stands for the rule: below 0 where it prefers the other side.
-- The lines between `each scorer` and `end` are repeated for every scorer of the run.
with led as (
    select
        pair_id,
        coalesce(
            -- each lead
            {lead}
            -- end
            < 0, false
        ) as swapped
    from shown_scores
)

select
    shown.pair_id,
    shown.prompt_id,
    if(led.swapped, shown.rejected_uid, shown.preferred_uid) as preferred_uid,
    if(led.swapped, shown.preferred_uid, shown.rejected_uid) as rejected_uid,
    -- each scorer
    if(led.swapped, shown.{scorer}_rejected, shown.{scorer}_preferred) as {scorer}_preferred,
    if(led.swapped, shown.{scorer}_preferred, shown.{scorer}_rejected) as {scorer}_rejected,
    -- end
    if(led.swapped, shown.rejected_id, shown.preferred_id) as preferred_id,
    if(led.swapped, shown.preferred_id, shown.rejected_id) as rejected_id
from shown
inner join led using (pair_id)
