-- Purpose: the prompts whose embeddings are nearest to a given one, and what the ranking made of their pairs.
-- Grain:   one prompt, nearest first.
-- Inputs:  prompts, pairs, ranking.
-- Parameters: $embedding, as long as the tower's; $limit, how many prompts.
-- The lines between `each tower|dimension` and `end` are written once, for the tower that embedded the text.
with nearest as (
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
    order by similarity desc, prompt_id
    limit $limit
)

select
    nearest.similarity,
    nearest.prompt,
    count(pairs.pair_id) as pairs,
    count(*) filter (where ranking.selected) as selected,
    min(ranking.rank) as best_rank,
    nearest.prompt_id
from nearest
left join pairs using (prompt_id)
left join ranking using (pair_id)
group by nearest.similarity, nearest.prompt, nearest.prompt_id
order by nearest.similarity desc, nearest.prompt_id
