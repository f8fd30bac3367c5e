"""The paper's claim in small: the demo's 64 px world, trained on its best pairs and on as many at random."""

from collections.abc import Iterator
from pathlib import Path

from accelerate.state import AcceleratorState

from benchmarks.demo_world.truth import WinRate, judge_sampled_pairs
from benchmarks.gpu.parts.embed_paths import demo_pairs
from benchmarks.gpu.plan import Bench, Row
from curate.embed import EmbedOptions, embed
from curate.export import ExportOptions, export_shards
from curate.rank import RankOptions, rank
from curate.sources.manifest import BUNDLED
from curate.storage import Run, open_run
from train.sample import SampleOptions, sample
from train.training import TrainOptions, train

ARMS = {"the best 5.33 %": "qsd", "as many at random": "random"}
HELD_OUT = BUNDLED / "demo" / "prompts" / "heldout.txt"
REHEARSED_PAIRS = 64


def measure(bench: Bench) -> Iterator[Row]:
    """How often the truth, which had no part in it, prefers a trained model's picture to its base's."""
    run = open_run(bench.folder / "run")
    source = (str(demo_pairs(bench.folder, REHEARSED_PAIRS)),) if bench.rehearse else ()
    embed(run, EmbedOptions(source=source, device=bench.device))
    for arm, metric in ARMS.items():
        found = truth_of(bench, run, metric)
        note = f"95 % interval {found.ci_low:.1%} to {found.ci_high:.1%}, {found.prompts} prompts"
        yield Row(f"trained on {arm}: pictures that win against the base's", 100 * found.win_rate, "%", note=note)


def truth_of(bench: Bench, run: Run, metric: str) -> WinRate:
    """One arm, from its ranking to the judge."""
    AcceleratorState._reset_state(True)
    shards, trained = bench.folder / f"shards-{metric}", bench.folder / f"trained-{metric}"
    rank(run, RankOptions(metric=metric, name=metric, top="0.0533"))
    export_shards(run, ExportOptions(name=metric, output=str(shards)))
    train(TrainOptions(shards=shards, output=trained, steps=1 if bench.rehearse else None))
    options = SampleOptions(
        model=(str(trained / "model"),),
        prompts=str(prompts(bench)),
        output=bench.folder / f"sampled-{metric}",
        images_per_prompt=1 if bench.rehearse else 2,
        steps=2 if bench.rehearse else 10,
        guidance=1.0,
    )
    sample(options)
    return judge_sampled_pairs(bench.folder / f"sampled-{metric}" / "pairs.parquet")


def prompts(bench: Bench) -> Path:
    """The held-out ones; a few of them in a rehearsal."""
    if not bench.rehearse:
        return HELD_OUT
    path = bench.folder / "prompts.txt"
    path.write_text("\n".join(HELD_OUT.read_text("utf-8").splitlines()[:2]) + "\n")
    return path
