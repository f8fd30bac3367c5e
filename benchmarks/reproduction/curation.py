"""A run directory of the world, as `curate embed` would leave it, and the pairs that `curate rank` selects from it."""

import fcntl
import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.reproduction.judges import ANNOTATORS, SCORERS, judgements, scores
from benchmarks.reproduction.pictures import embed_captions
from benchmarks.reproduction.world import World
from curate.rank.psi import parse_psi
from curate.rank.selection.selection import Limits
from curate.rank.stage import RankOptions, rank
from curate.storage.run import Run
from curate.storage.tables import write_table
from schemas import tables

TOP = "0.0533"


@dataclass(frozen=True)
class Selection:
    """How `curate rank` is asked: its options by their names, `psi` as typed on its command line."""

    metric: str = "qsd"
    psi: str = "hpsv2"
    psi_norm: str = "percentile"
    top: str = TOP
    reverse: bool = False
    max_per_prompt: int | None = None
    diversity: float | None = None
    near_duplicates: float | None = None

    def options(self, name: str, seed: int) -> RankOptions:
        """For one seed: only `random` depends on it."""
        limits = Limits(per_prompt=self.max_per_prompt, near_duplicates=self.near_duplicates, diversity=self.diversity)
        return RankOptions(
            psi=parse_psi(self.psi, self.psi_norm),
            name=name,
            metric=self.metric,
            params=(f"seed={seed}",) if self.metric == "random" else (),
            top=self.top,
            reverse=self.reverse,
            limits=limits,
        )


@dataclass(frozen=True)
class Chosen:
    """The selected pairs, best first. preferred, rejected: numbers of pictures; wrong: the annotator erred."""

    preferred: np.ndarray
    rejected: np.ndarray
    prompt: np.ndarray
    quality: np.ndarray
    wrong: np.ndarray

    def facts(self, world: World) -> dict[str, float]:
        """What a reader wants to know of a selection."""
        return {
            "pairs": len(self.prompt),
            "prompts": len(np.unique(self.prompt)),
            "right": float(1 - self.wrong.mean()),
            "truth_preferred": float(world.truth[self.preferred].mean()),
            "truth_rejected": float(world.truth[self.rejected].mean()),
        }


def chosen_pairs(folder: Path, world: World, selection: Selection, accuracy: float, seed: int) -> Chosen:
    """What `selection` selects under one seed's judgements and scores; run directory and ranking are made once.

    Processes that want the same run directory wait for each other.
    """
    run = Run(folder / f"accuracy-{round(100 * accuracy)}-seed-{seed}")
    folder.mkdir(parents=True, exist_ok=True)
    with run.root.with_suffix(".lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        if not (run.root / "embed.json").exists():
            write_run(run, world, seed, accuracy)
        return choose(run, world, selection, seed)


def write_run(run: Run, world: World, seed: int, accuracy: float) -> None:
    """pairs, prompts and scores by the schemas; the pictures' bytes are nowhere needed, so `images` is empty."""
    pair, of_picture = np.arange(world.pairs), np.repeat(world.prompt_of_pair, 2)
    uids = [f"picture-{number:06d}" for number in range(2 * world.pairs)]
    ids = [f"prompt-{number:05d}" for number in range(len(world.prompts))]
    annotator = np.random.default_rng((seed, 9)).integers(ANNOTATORS, size=world.pairs)
    pairs = pa.table(
        {
            "pair_id": [f"pair-{number:06d}" for number in pair],
            "prompt_id": [ids[number] for number in world.prompt_of_pair],
            "image_0_uid": uids[0::2],
            "image_1_uid": uids[1::2],
            "preference": pa.array(judgements(world.truth.reshape(-1, 2), accuracy, seed), pa.int8()),
            "strength": pa.nulls(world.pairs, pa.float32()),
            "disagreement": pa.nulls(world.pairs, pa.float32()),
            "split": ["train"] * world.pairs,
            "annotator_id": [f"annotator-{number}" for number in annotator],
            "image_0_model": pa.nulls(world.pairs, pa.string()),
            "image_1_model": pa.nulls(world.pairs, pa.string()),
            "category": pa.nulls(world.pairs, pa.string()),
            "source_file": ["world"] * world.pairs,
            "source_row_group": pa.array(np.zeros(world.pairs), pa.int32()),
            "source_row": pa.array(pair, pa.int64()),
        }
    )
    write_table(pairs, run.pairs, tables.PAIRS)
    embeds = embed_captions(world.prompts).reshape(len(ids), -1)
    embeds /= np.linalg.norm(embeds, axis=1, keepdims=True)
    schema = tables.with_embeddings(tables.PROMPTS, {"clip": embeds.shape[1]}, pa.float32())
    column = pa.FixedSizeListArray.from_arrays(pa.array(embeds.reshape(-1)), embeds.shape[1])
    write_table(pa.table([ids, world.prompts, column], schema.names), run.table("prompts") / "part.parquet", schema)
    seen = {"prompt_id": [ids[number] for number in of_picture], "image_uid": uids} | {
        tables.score_column(name): scores(name, world.truth, world.colourfulness, of_picture, seed) for name in SCORERS
    }
    score_schema = tables.with_scores(tables.SCORES, list(SCORERS))
    write_table(pa.table(seen), run.table("scores") / "part.parquet", score_schema)
    for name, empty in (("images", tables.IMAGES), ("dropped", tables.DROPPED)):
        write_table(empty.empty_table(), run.table(name) / "part.parquet", empty)
    run.claim({"split": "train", "seed": seed, "accuracy": accuracy}, {})
    run.mark_finished({"judged": True, "pairs": world.pairs, "scorers": list(SCORERS), "dataset": "miniature"})


def choose(run: Run, world: World, selection: Selection, seed: int) -> Chosen:
    """Rank the run as `selection` says, unless that ranking is there, and read what it selected."""
    text = json.dumps(asdict(selection), sort_keys=True)
    name = "r" + hashlib.sha256(text.encode()).hexdigest()[:12]
    path = run.rankings / f"{name}.parquet"
    if not path.with_suffix(".toml").exists():
        rank(run, selection.options(name, seed))
    columns = ["pair_id", "preferred_uid", "rejected_uid", "prompt_id", "quality", "selected", "rank"]
    table = pq.read_table(path, columns=columns).sort_by("rank")
    table = table.filter(table["selected"])
    numbers = {
        name: np.array([int(one.rsplit("-", 1)[1]) for one in table[name].to_pylist()])
        for name in ("preferred_uid", "rejected_uid", "prompt_id")
    }
    preferred, rejected = numbers["preferred_uid"], numbers["rejected_uid"]
    wrong = world.truth[preferred] < world.truth[rejected]
    return Chosen(preferred, rejected, numbers["prompt_id"], table["quality"].to_numpy(), wrong)
