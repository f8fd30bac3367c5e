-- Purpose: the pairs whose prompts' embeddings are nearest to a given one.
-- Grain:   one pair, of the nearest prompt first, best rank first; ties and other pairs that are not ranked come last.
-- Inputs:  prompts, pairs, ranking.
-- Parameters: $embedding, as long as the tower's; $limit, how many pairs.
-- The lines between `each tower|dimension` and `end` are written once, for the tower that embedded the text.
with likened as (
    select
        prompt_id,
        prompt,
        array_cosine_similarity(
            -- each tower
            {tower}_embedding,
            -- end
            -- each dimension
            $embedding::float[{dimension}]
            -- end
        ) as similarity
    from prompts
)

select
    likened.similarity,
    likened.prompt,
    ranking.rank,
    ranking.selected,
    ranking.quality,
    pairs.pair_id,
    case pairs.preference when 0 then pairs.image_0_uid when 1 then pairs.image_1_uid end as preferred_uid,
    case pairs.preference when 0 then pairs.image_1_uid when 1 then pairs.image_0_uid end as rejected_uid
from likened
inner join pairs using (prompt_id)
left join ranking using (pair_id)
order by likened.similarity desc, likened.prompt_id, ranking.rank nulls last, pairs.pair_id
limit $limit
