"""Small finished runs written by hand, without a model, and a short way to rank them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curate.rank.psi import Psi
from curate.rank.stage import RankOptions, rank
from curate.storage.run import Run
from curate.storage.tables import write_table
from schemas import tables

BLEND = Psi({"clip": 1.0, "pickscore": 1.0}, "percentile")
HAND_PAIRS: list[tuple[str, str, int | None]] = [("a", "b", 0), ("c", "b", 1), ("a", "c", None), ("d", "a", 0)]
HAND_SCORES = {"a": (0.1, 20.0), "b": (0.2, 18.0), "c": (0.3, 22.0), "d": (0.4, 21.0)}

Scores = Mapping[str, tuple[float | None, ...]]


def make_run(
    root: Path,
    judgements: list[tuple[str, str, int | None]],
    scores: Scores,
    scorers: tuple[str, ...] = ("clip", "pickscore"),
    prompts: list[str] | None = None,
    columns: dict[str, list[Any]] | None = None,
    embeddings: dict[str, list[float]] | None = None,
) -> Run:
    """A finished run. judgements: (image 0, image 1, preference); scores: image -> one value per scorer.

    prompts: each pair's prompt_id (one prompt `p` by default). columns: further columns of `pairs`, such as
    annotator_id. embeddings: prompt_id -> embedding of the tower `clip`; none by default.
    """
    run, of_pair = Run(root), prompts or ["p"] * len(judgements)
    pairs = [
        dict.fromkeys(tables.PAIRS.names)
        | {
            "pair_id": f"pair-{i}",
            "prompt_id": of_pair[i],
            "image_0_uid": a,
            "image_1_uid": b,
            "preference": preference,
        }
        | {"split": "train", "source_file": "f", "source_row_group": 0, "source_row": i}
        | {name: values[i] for name, values in (columns or {}).items()}
        for i, (a, b, preference) in enumerate(judgements)
    ]
    write_table(pa.Table.from_pylist(pairs, schema=tables.PAIRS), run.pairs, tables.PAIRS)
    ids = sorted(set(of_pair)) or ["p"]
    text = pa.table({"prompt_id": ids, "prompt": ["a prompt" if one == "p" else f"prompt {one}" for one in ids]})
    schema = tables.PROMPTS
    if embeddings:
        matrix = np.array([embeddings[one] for one in ids], np.float32)
        column = pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1)), matrix.shape[1])
        text = text.append_column("clip_embedding", column)
        schema = tables.with_embeddings(tables.PROMPTS, {"clip": matrix.shape[1]}, pa.float32())
    write_table(text, run.table("prompts") / "p.parquet", schema)
    write_table(tables.IMAGES.empty_table(), run.table("images") / "p.parquet", tables.IMAGES)
    write_table(tables.DROPPED.empty_table(), run.table("dropped") / "plan.parquet", tables.DROPPED)
    seen = sorted({(of_pair[i], uid) for i, (a, b, _) in enumerate(judgements) for uid in (a, b) if uid in scores})
    rows = [
        {"prompt_id": prompt, "image_uid": uid}
        | {tables.score_column(name): value for name, value in zip(scorers, scores[uid], strict=True)}
        for prompt, uid in seen
    ]
    nullable = pa.schema([field.with_nullable(True) for field in tables.with_scores(tables.SCORES, list(scorers))])
    write_table(pa.Table.from_pylist(rows, schema=nullable), run.table("scores") / "p.parquet", nullable)
    run.claim({"split": "train"}, {})
    run.mark_finished({"judged": True, "pairs": len(pairs), "scorers": list(scorers), "dataset": "hand"})
    return run


def ranked(
    run: Run, name: str = "default", metric: str = "qsd", psi: Psi = BLEND, top: str = "1.0", **changes: Any
) -> dict[str, Any]:
    """`rank` with every option at hand."""
    return rank(run, RankOptions(psi, name, metric, top=top, **changes))


def ranking_rows(run: Run, name: str = "default") -> list[dict[str, Any]]:
    """The ranking's rows, best first."""
    return pq.read_table(run.rankings / f"{name}.parquet").to_pylist()


def qualities(run: Run, name: str = "default") -> dict[str, float]:
    """pair_id -> quality, best first."""
    return {row["pair_id"]: row["quality"] for row in ranking_rows(run, name)}


def selected(run: Run, name: str = "default") -> list[str]:
    """The selected pairs, best first."""
    return [row["pair_id"] for row in ranking_rows(run, name) if row["selected"]]
