-- Purpose: what a metric sees of a pair: each scorer's two values and their signed margin, and psi.
-- Grain:   one eligible pair.
-- Inputs:  eligible, psi.
-- The lines between `each scorer` and `end` are repeated for every scorer of the run.
select
    eligible.pair_id,
    eligible.prompt_id,
    eligible.preferred_uid,
    eligible.rejected_uid,
    -- each scorer
    eligible.{scorer}_preferred,
    eligible.{scorer}_rejected,
    eligible.{scorer}_preferred - eligible.{scorer}_rejected as {scorer}_margin,
    -- end
    preferred.psi as psi_preferred,
    rejected.psi as psi_rejected
from eligible
inner join psi as preferred on eligible.preferred_id = preferred.score_id
inner join psi as rejected on eligible.rejected_id = rejected.score_id
