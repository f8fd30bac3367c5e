-- Purpose: what a shard's sample must say of a selected pair, in the order in which `curate verify` compares it.
-- Grain:   one selected pair of a ranking, best first.
-- Inputs:  ranking, prompts, images.
select
    ranking.pair_id,
    ranking.rank,
    ranking.quality,
    prompts.prompt,
    ranking.preferred_uid,
    ranking.rejected_uid,
    preferred.sha256 as preferred_sha256,
    rejected.sha256 as rejected_sha256
from ranking
inner join prompts using (prompt_id)
inner join images as preferred on ranking.preferred_uid = preferred.image_uid
inner join images as rejected on ranking.rejected_uid = rejected.image_uid
where ranking.selected
order by ranking.rank
