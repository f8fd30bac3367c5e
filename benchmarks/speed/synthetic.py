"""Finished runs of any size with Pick-a-Pic's shape, made by DuckDB from hashes: equal sizes give equal tables.

Sixteen pairs a prompt, the image that wins stays for the next round (17 images for 16 pairs), ids as long as
the real ones, 12 % ties, and judgements that follow a hidden quality which every scorer sees with noise.
"""

from pathlib import Path

import duckdb
import pyarrow.parquet as pq

from curate.storage.run import Run
from curate.storage.tables import write_table
from schemas import tables

SCORERS = ["clip", "pickscore", "aesthetic", "hpsv2"]
PAIRS_PER_PROMPT = 16
ANNOTATORS = 4_000

# A uniform number in [0, 1) from an integer and a salt; the sum of three, scaled, is nearly normal.
MACROS = """
create macro uniform(i, salt) as hash(i * 1000003 + salt) / 18446744073709551616.0;
create macro normal(i, salt) as 2 * (uniform(i, salt) + uniform(i, salt + 1) + uniform(i, salt + 2) - 1.5);
create macro uid(i) as md5(i::varchar)::uuid::varchar;
create macro prompt_of_pair(i) as substr(md5('p' || (i // 16)::varchar), 1, 16);
create macro image_of_slot(i, side) as i + i // 16 + side;
"""

PAIRS = """
select
    substr(md5('pair' || i::varchar), 1, 16) as pair_id,
    prompt_of_pair(i) as prompt_id,
    uid(image_of_slot(i, 0)) as image_0_uid,
    uid(image_of_slot(i, 1)) as image_1_uid,
    case
        when uniform(i, 1) < 0.12 then null
        when uniform(i, 2) < 1 / (1 + exp(normal(image_of_slot(i, 0), 10) - normal(image_of_slot(i, 1), 10))) then 1
        else 0
    end::tinyint as preference,
    'train' as split,
    (hash(i // 16) % {annotators})::varchar as annotator_id,
    null::varchar as image_0_model,
    null::varchar as image_1_model,
    'train-0.parquet' as source_file,
    (i // 1500)::integer as source_row_group,
    (i % 1500)::bigint as source_row
from range({pairs}) as t(i)
"""

SCORES = """
select
    prompt_of_pair((i // 17) * 16) as prompt_id,
    uid(i) as image_uid,
    (0.25 + 0.03 * (normal(i, 10) + normal(i, 20)))::float as clip_score,
    (20 + 1.0 * (normal(i, 10) + 0.8 * normal(i, 30)))::float as pickscore_score,
    (5.5 + 0.5 * (normal(i, 10) + 2.0 * normal(i, 40)))::float as aesthetic_score,
    (0.27 + 0.02 * (normal(i, 10) + 0.6 * normal(i, 50)))::float as hpsv2_score
from range({images}) as t(i)
"""


def make_run(root: Path, pairs: int, scorers: list[str] = SCORERS) -> Run:
    """A finished run of `pairs` pairs (a multiple of 16) and their scores; images and prompts stay empty."""
    run = Run(root)
    for folder in (run.root, run.table("scores")):
        folder.mkdir(parents=True, exist_ok=True)
    with duckdb.connect() as connection:
        connection.execute(MACROS)
        copy = "copy ({query}) to '{path}' (format parquet, compression zstd)"
        query = PAIRS.format(pairs=pairs, annotators=ANNOTATORS)
        connection.execute(copy.format(query=query, path=run.pairs)).fetchall()
        kept = ", ".join(["prompt_id", "image_uid", *map(tables.score_column, scorers)])
        query = f"select {kept} from ({SCORES.format(images=pairs // PAIRS_PER_PROMPT * 17)})"
        connection.execute(copy.format(query=query, path=run.table("scores") / "part-00000.parquet")).fetchall()
    for name, empty in (("images", tables.IMAGES), ("prompts", tables.PROMPTS), ("dropped", tables.DROPPED)):
        write_table(empty.empty_table(), run.table(name) / "part-00000.parquet", empty)
    run.claim({"split": "train"}, {})
    rows = pq.read_metadata(run.pairs).num_rows
    run.mark_finished({"judged": True, "pairs": rows, "scorers": scorers, "dataset": "synthetic"})
    return run
