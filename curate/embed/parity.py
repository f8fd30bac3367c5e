"""`curate embed --parity N`: the run's own scores beside float32, exact decoding, and no compiler; RUN/parity.json."""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curate.embed.options import ComputeOptions
from curate.errors import RunError
from curate.models.model_set import DEFAULT_SCORERS, ModelSet, ScorerSpec
from curate.models.scoring import EmbeddedPrompts, Scoring, load_scoring, stacked
from curate.rank.psi import Psi
from curate.rank.stage import RankOptions, rank
from curate.sources.images import Rejected, decode
from curate.sources.parquet import Location, Source
from curate.storage.run import PAIRS_FILE, Run, RunFiles
from curate.storage.tables import write_table
from schemas import tables

BATCH_IMAGES = 32
TOP = "0.0533"
PLACE = ("source_file", "source_row_group", "source_row", "source_side")


def measure_parity(
    run: RunFiles, source: Source, model_set: ModelSet, scorers: list[ScorerSpec], options: ComputeOptions, images: int
) -> dict[str, Any]:
    """Score `images` images of the run again, exactly, and say how far the run's scores are from that.

    The sample is the images of the run's first pairs, so that it can be ranked. Written to RUN/parity.json.
    Raises: RunError when fewer than two images of the run can be paired; SourceError, ModelError.
    """
    pairs, located = sample(run, images)
    stored = _stored_scores(run, pairs, located)
    prompts = _prompt_texts(run, stored)
    scoring = load_scoring(model_set, scorers, options.device, "fp32")
    scoring.limit.size = BATCH_IMAGES
    exact = exact_scores(scoring, source, located, stored, prompts)
    names = [spec.name for spec in scorers]
    report = {
        "images": len(located),
        "pairs": pairs.num_rows,
        "scores": stored.num_rows,
        "precision": options.precision,
        "decode": options.decode,
        "compiled": options.compiled,
        "scorers": {name: difference(stored, exact, name) for name in names},
        "top": overlap(pairs, prompts, stored, exact, names),
    }
    run.folder.write("parity.json", (json.dumps(report, indent=2) + "\n").encode("utf-8"))
    return report


def sample(run: RunFiles, images: int) -> tuple[pa.Table, dict[str, Location]]:
    """The first pairs whose images, at most `images` of them, are in the run; and where each image lies."""
    columns = ["image_uid", *PLACE]
    rows = run.folder.read_table("images", columns)
    places = {uid: Location(*place) for uid, *place in zip(*(rows[name].to_pylist() for name in columns), strict=True)}
    located: dict[str, Location] = {}
    kept = []
    pairs = run.folder.read_table(PAIRS_FILE)
    sides = zip(pairs["image_0_uid"].to_pylist(), pairs["image_1_uid"].to_pylist(), strict=True)
    for index, pair in enumerate(sides):
        if not all(uid in places for uid in pair):
            continue
        if len(located.keys() | set(pair)) > images:
            break
        located |= {uid: places[uid] for uid in pair}
        kept.append(index)
    if not kept:
        raise RunError(f"--parity {images}: no pair of {run.folder} has both of its images; nothing to compare")
    return pairs.take(kept), located


def exact_scores(
    scoring: Scoring, source: Source, located: dict[str, Location], stored: pa.Table, prompts: dict[str, str]
) -> pa.Table:
    """A table like `stored`, row for row, of what `scoring` gives."""
    encoded = source.image_bytes(list(located.values()))
    embedded = EmbeddedPrompts(
        {prompt_id: row for row, prompt_id in enumerate(prompts)},
        list(prompts.values()),
        scoring.embed_prompts(list(prompts.values())),
    )
    rows_of: dict[str, list[int]] = {}
    for row, uid in enumerate(stored["image_uid"].to_pylist()):
        rows_of.setdefault(uid, []).append(row)
    prompt_ids = stored["prompt_id"].to_pylist()
    found = {name: np.empty(stored.num_rows, np.float32) for name in scoring.heads}
    uids = list(located)
    for start in range(0, len(uids), BATCH_IMAGES):
        batch = uids[start : start + BATCH_IMAGES]
        pictures = stacked([scoring.preprocess(_picture(encoded[located[uid]], uid)) for uid in batch])
        rows = [(index, row) for index, uid in enumerate(batch) for row in rows_of[uid]]
        _, scores = scoring.score_pictures(pictures, [(index, prompt_ids[row]) for index, row in rows], embedded)
        for name, values in scores.items():
            found[name][[row for _, row in rows]] = values
    exact = stored.select(["prompt_id", "image_uid"])
    for name, values in found.items():
        exact = exact.append_column(tables.score_column(name), pa.array(values, pa.float32()))
    return exact


def difference(stored: pa.Table, exact: pa.Table, scorer: str) -> dict[str, float]:
    """max |Δ| and mean |Δ| of one scorer, and the standard deviation of its exact scores to hold them against."""
    ours, theirs = (table[tables.score_column(scorer)].to_numpy().astype(np.float64) for table in (stored, exact))
    deltas = np.abs(ours - theirs)
    return {"max": float(deltas.max()), "mean": float(deltas.mean()), "spread": float(theirs.std())}


def overlap(
    pairs: pa.Table, prompts: dict[str, str], stored: pa.Table, exact: pa.Table, scorers: list[str]
) -> dict[str, Any] | None:
    """How many of the sample's best 5.33 % of pairs stay: both rankings by `qsd` and the default psi of `curate rank`.

    None where nothing can be ranked: no judgements, or ties alone.
    """
    if pairs["preference"].null_count == pairs.num_rows:
        return None
    best = [_best(pairs, prompts, scores, scorers) for scores in (stored, exact)]
    return {"share": float(TOP), "pairs": len(best[1]), "kept": len(best[0] & best[1])}


def _best(pairs: pa.Table, prompts: dict[str, str], scores: pa.Table, scorers: list[str]) -> set[str]:
    """pair_ids that `curate rank` itself selects, in a run of the sample alone."""
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder))
        texts = pa.table({"prompt_id": list(prompts), "prompt": list(prompts.values())})
        write_table(pairs, run.pairs, pairs.schema)
        write_table(texts, run.table("prompts") / "sample.parquet", tables.PROMPTS)
        write_table(tables.IMAGES.empty_table(), run.table("images") / "sample.parquet", tables.IMAGES)
        write_table(tables.DROPPED.empty_table(), run.table("dropped") / "sample.parquet", tables.DROPPED)
        write_table(scores, run.table("scores") / "sample.parquet", tables.with_scores(tables.SCORES, scorers))
        run.claim({"split": "sample"}, {})
        run.mark_finished({"judged": True, "pairs": pairs.num_rows, "scorers": scorers, "dataset": "sample"})
        chosen = [name for name in DEFAULT_SCORERS if name in scorers] or scorers
        rank(run, RankOptions(Psi(dict.fromkeys(chosen, 1.0), "percentile"), top=TOP))
        ranked = pq.read_table(run.rankings / "default.parquet", columns=["pair_id", "selected"])
        return set(ranked.filter(ranked["selected"])["pair_id"].to_pylist())


def _stored_scores(run: RunFiles, pairs: pa.Table, located: dict[str, Location]) -> pa.Table:
    """The run's own scores of the sample's pairs, in a fixed order."""
    wanted = {
        (prompt_id, uid)
        for side in tables.IMAGE_SIDES
        for prompt_id, uid in zip(pairs["prompt_id"].to_pylist(), pairs[f"image_{side}_uid"].to_pylist(), strict=True)
    }
    scores = run.folder.read_table("scores")
    scores = scores.filter(pc.is_in(scores["image_uid"], pa.array(located, pa.string())))
    keys = zip(scores["prompt_id"].to_pylist(), scores["image_uid"].to_pylist(), strict=True)
    scores = scores.take([row for row, key in enumerate(keys) if key in wanted])
    return scores.sort_by([("image_uid", "ascending"), ("prompt_id", "ascending")]).combine_chunks()


def _prompt_texts(run: RunFiles, stored: pa.Table) -> dict[str, str]:
    prompts = run.folder.read_table("prompts", ["prompt_id", "prompt"])
    prompts = prompts.filter(pc.is_in(prompts["prompt_id"], pc.unique(stored["prompt_id"])))
    return dict(zip(prompts["prompt_id"].to_pylist(), prompts["prompt"].to_pylist(), strict=True))


def _picture(data: bytes | None, uid: str) -> Any:
    decoded = decode(data)
    if isinstance(decoded, Rejected):
        raise RunError(f"image {uid} was scored, and now cannot be decoded: {decoded.detail}")
    return decoded.image
