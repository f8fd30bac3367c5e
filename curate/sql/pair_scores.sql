-- Purpose: what a metric sees of a pair: each scorer's two values and their signed margin, and psi.
-- Grain:   one eligible pair.
-- Inputs:  eligible, scores, psi.
-- The lines between `each scorer` and `end` are repeated for every scorer of the run.
select
    eligible.pair_id,
    eligible.prompt_id,
    eligible.preferred_uid,
    eligible.rejected_uid,
    -- each scorer
    preferred.{scorer}_score as {scorer}_preferred,
    rejected.{scorer}_score as {scorer}_rejected,
    preferred.{scorer}_score - rejected.{scorer}_score as {scorer}_margin,
    -- end
    psi_of_preferred.psi as psi_preferred,
    psi_of_rejected.psi as psi_rejected
from eligible
inner join scores as preferred
    on eligible.prompt_id = preferred.prompt_id and eligible.preferred_uid = preferred.image_uid
inner join scores as rejected
    on eligible.prompt_id = rejected.prompt_id and eligible.rejected_uid = rejected.image_uid
inner join psi as psi_of_preferred
    on eligible.prompt_id = psi_of_preferred.prompt_id and eligible.preferred_uid = psi_of_preferred.image_uid
inner join psi as psi_of_rejected
    on eligible.prompt_id = psi_of_rejected.prompt_id and eligible.rejected_uid = psi_of_rejected.image_uid
