-- Purpose: everything that a shard's sample says of a selected pair, and where its two images lie.
-- Grain:   one selected pair of a ranking, of those at some places of the shards' order.
-- Inputs:  shard_order, ranking, pairs, prompts, images.
-- Parameters: $first, $end: the first of these places, and the one after the last.
-- The lines between `each side|scorer` and `end` are repeated for both sides, and for every scorer of the run.
select
    shard_order.place,
    ranking.pair_id,
    ranking.prompt_id,
    prompts.prompt,
    ranking.quality,
    ranking.rank,
    pairs.split,
    pairs.annotator_id,
    pairs.strength,
    if(pairs.image_0_uid = ranking.preferred_uid, pairs.image_0_model, pairs.image_1_model) as preferred_model,
    if(pairs.image_0_uid = ranking.preferred_uid, pairs.image_1_model, pairs.image_0_model) as rejected_model,
    pairs.source_file,
    pairs.source_row_group,
    pairs.source_row,
    -- each side
    {side}.image_uid as {side}_uid,
    {side}.sha256 as {side}_sha256,
    {side}.size_bytes as {side}_size_bytes,
    {side}.format as {side}_format,
    {side}.width as {side}_width,
    {side}.height as {side}_height,
    {side}.source_file as {side}_file,
    {side}.source_row_group as {side}_row_group,
    {side}.source_row as {side}_row,
    {side}.source_side as {side}_side,
    -- end
    -- each scorer
    ranking.{scorer}_preferred,
    ranking.{scorer}_rejected,
    -- end
from shard_order
inner join ranking using (pair_id)
inner join pairs using (pair_id)
inner join prompts on ranking.prompt_id = prompts.prompt_id
inner join images as preferred on ranking.preferred_uid = preferred.image_uid
inner join images as rejected on ranking.rejected_uid = rejected.image_uid
where shard_order.place >= $first and shard_order.place < $end
order by shard_order.place
