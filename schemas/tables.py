"""Arrow schemas of the tables in a run directory, and of the pairs that `train sample` draws.

One row of a table means one thing, its grain, named in the docstring beside each schema. Scores are
float32. Image embeddings are stored in float16 (they are L2-normalised and only searched); prompt
embeddings in float32, because a resumed run takes its dot products with them.
"""

import pyarrow as pa

IMAGE_SIDES = (0, 1)

PAIRS = pa.schema(
    [
        pa.field("pair_id", pa.string(), nullable=False),
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("image_0_uid", pa.string(), nullable=False),
        pa.field("image_1_uid", pa.string(), nullable=False),
        pa.field("preference", pa.int8()),  # 0, 1, or null: a tie, or never judged
        pa.field("strength", pa.float32()),  # share of the votes for the preferred side, 0.5 to 1; null: none counted
        pa.field("disagreement", pa.float32()),  # share of the questions about the pair whose winner is another
        pa.field("split", pa.string(), nullable=False),
        pa.field("annotator_id", pa.string()),
        pa.field("image_0_model", pa.string()),
        pa.field("image_1_model", pa.string()),
        pa.field("category", pa.string()),  # of the prompt, where the source says
        pa.field("source_file", pa.string(), nullable=False),
        pa.field("source_row_group", pa.int32(), nullable=False),
        pa.field("source_row", pa.int64(), nullable=False),  # counted within the row group
    ]
)
"""Grain: one judged (or sampled) pair of the source. The columns that its manifest lists under `keep` follow."""

IMAGES = pa.schema(
    [
        pa.field("image_uid", pa.string(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),  # of the encoded bytes
        pa.field("size_bytes", pa.int64(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("format", pa.string(), nullable=False),
        pa.field("source_file", pa.string(), nullable=False),  # where the bytes were read from
        pa.field("source_row_group", pa.int32(), nullable=False),
        pa.field("source_row", pa.int64(), nullable=False),
        pa.field("source_side", pa.int8(), nullable=False),
    ]
)
"""Grain: one unique image. `<tower>_embedding` columns follow."""

PROMPTS = pa.schema(
    [
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("prompt", pa.string(), nullable=False),
    ]
)
"""Grain: one unique prompt. `<tower>_embedding` columns follow."""

TAGS = pa.schema(
    [
        pa.field("pair_id", pa.string(), nullable=False),
        pa.field("tag", pa.string(), nullable=False),
    ]
)
"""Grain: one tag of one pair, given by a person in `curate browse`."""

SCORES = pa.schema(
    [
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("image_uid", pa.string(), nullable=False),
    ]
)
"""Grain: one (prompt, image) that occurs in a pair. `<scorer>_score` columns follow."""

DROPPED = pa.schema(
    [
        pa.field("stage", pa.string(), nullable=False),
        pa.field("pair_id", pa.string()),
        pa.field("image_uid", pa.string()),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
    ]
)
"""Grain: one image or one pair left out. A pair is left out of a stage once, with one reason."""

RANKING = pa.schema(
    [
        pa.field("pair_id", pa.string(), nullable=False),
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("preferred_uid", pa.string(), nullable=False),
        pa.field("rejected_uid", pa.string(), nullable=False),
        pa.field("quality", pa.float64(), nullable=False),
        pa.field("rank", pa.int64(), nullable=False),  # 1 = best
        pa.field("percentile", pa.float64(), nullable=False),  # 1.0 = best, 0.0 = worst
        pa.field("selected", pa.bool_(), nullable=False),
        pa.field("passed_over", pa.string()),  # why not selected, where a pair of a worse rank is
    ]
)
"""Grain: one ranked pair. `<scorer>_preferred`, `<scorer>_rejected`, `<scorer>_margin` follow."""

SAMPLED_PAIRS = pa.schema(
    [
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("category", pa.string()),
        pa.field("image_0_uid", pa.string(), nullable=False),
        pa.field("image_1_uid", pa.string(), nullable=False),
        pa.field("image_0_path", pa.string()),  # PNG, relative to this table's file; null: black or not finite
        pa.field("image_1_path", pa.string()),
        pa.field("image_0_model", pa.string(), nullable=False),
        pa.field("image_1_model", pa.string(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
    ]
)
"""Grain: one prompt drawn by two models from one seed; side 0 is the one named first.

Every two of the models make a pair, so a picture of M models stands in M - 1 rows: they share its file.
"""

REVIEWED_PAIRS = pa.schema(
    [
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("category", pa.string()),
        pa.field("image_0_uid", pa.string(), nullable=False),
        pa.field("image_1_uid", pa.string(), nullable=False),
        pa.field("image_0_path", pa.string(), nullable=False),  # the source's own bytes, relative to this table's file
        pa.field("image_1_path", pa.string(), nullable=False),
        pa.field("image_0_model", pa.string()),
        pa.field("image_1_model", pa.string()),
        pa.field("label_0", pa.float64(), nullable=False),  # 1 = image 0 preferred, 0 = image 1, 0.5 = tie
        pa.field("label_1", pa.float64(), nullable=False),
        pa.field("annotator_id", pa.string(), nullable=False),
        pa.field("judgement_id", pa.string(), nullable=False),
        pa.field("place", pa.int64(), nullable=False),  # in the order of the review, from 0
        pa.field("left_side", pa.int8(), nullable=False),  # which image was shown on the left, 0 or 1
        pa.field("seconds", pa.float64(), nullable=False),  # from the pair's showing to the judgement
        pa.field("both_bad", pa.bool_(), nullable=False),  # a tie of two bad pictures
    ]
)
"""Grain: one judgement of one reviewer on one pair."""


def embedding_column(tower: str) -> str:
    """Name of a tower's column in `images` and `prompts`."""
    return f"{tower}_embedding"


def score_column(scorer: str) -> str:
    """Name of a scorer's column in `scores`."""
    return f"{scorer}_score"


def with_embeddings(schema: pa.Schema, dimensions: dict[str, int], value_type: pa.DataType) -> pa.Schema:
    """`schema` followed by one fixed-size list column per tower; `dimensions` maps tower to length."""
    for tower, dimension in dimensions.items():
        schema = schema.append(pa.field(embedding_column(tower), pa.list_(value_type, dimension)))
    return schema


def with_scores(schema: pa.Schema, scorers: list[str]) -> pa.Schema:
    """`SCORES` followed by one float32 column per scorer."""
    for scorer in scorers:
        schema = schema.append(pa.field(score_column(scorer), pa.float32(), nullable=False))
    return schema


def with_margins(schema: pa.Schema, scorers: list[str]) -> pa.Schema:
    """`RANKING` followed by each scorer's preferred and rejected score and their signed margin."""
    for scorer in scorers:
        for side in ("preferred", "rejected", "margin"):
            schema = schema.append(pa.field(f"{scorer}_{side}", pa.float32()))  # null: no finite score
    return schema
