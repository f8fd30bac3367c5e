"""A small world through the real `curate rank`."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmarks.reproduction.curation import Chosen, Selection, chosen_pairs, write_run
from benchmarks.reproduction.judges import judgements
from benchmarks.reproduction.world import World
from curate.storage.run import Run
from schemas import tables

PROMPTS = [f"a small {colour} circle on a white background" for colour in ("red", "green", "blue", "yellow", "purple")]


@pytest.fixture(scope="module")
def world() -> World:
    rng = np.random.default_rng(0)
    pictures = np.zeros((2 * 40, 16, 16, 3), np.uint8)
    return World(PROMPTS, [], [], pictures, rng.normal(-12, 3, 80), rng.random(80))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


def chosen(folder: Path, world: World, selection: Selection, seed: int = 0) -> Chosen:
    return chosen_pairs(folder, world, selection, 0.74, seed)


def test_the_run_directory_meets_the_schemas(folder: Path, world: World) -> None:
    run = Run(folder / "by-hand")
    write_run(run, world, 0, 0.74)
    pairs = pq.read_table(run.pairs)
    assert pairs.schema.equals(tables.PAIRS)
    assert pairs["preference"].to_pylist() == judgements(world.truth.reshape(-1, 2), 0.74, 0).tolist()
    assert len(pq.read_table(run.table("scores"))) == 80


def test_all_pairs_are_all_pairs_sided_by_the_judgements(folder: Path, world: World) -> None:
    found = chosen(folder, world, Selection(top="1.0"))
    assert sorted(np.minimum(found.preferred, found.rejected) // 2) == list(range(40))
    preference = judgements(world.truth.reshape(-1, 2), 0.74, 0)
    assert (found.preferred % 2 == preference[found.preferred // 2]).all()
    assert (found.prompt == world.prompt_of_pair[found.preferred // 2]).all()
    facts = found.facts(world)
    better = world.truth[found.preferred] > world.truth[found.rejected]
    assert facts["right"] == pytest.approx(better.mean())
    assert (facts["pairs"], facts["prompts"]) == (40, 5)


def test_top_and_bottom_are_the_two_ends_of_one_ranking(folder: Path, world: World) -> None:
    top, bottom = (chosen(folder, world, Selection(top="8", reverse=reverse)) for reverse in (False, True))
    everything = chosen(folder, world, Selection(top="1.0"))
    assert top.preferred.tolist() == everything.preferred[:8].tolist()
    assert sorted(bottom.preferred) == sorted(everything.preferred[-8:])
    assert (np.diff(top.quality) <= 0).all()


def test_only_random_depends_on_the_seed_of_the_choice(folder: Path, world: World) -> None:
    choices = [set(chosen(folder, world, Selection(metric="random", top="8"), seed).preferred // 2) for seed in (0, 1)]
    assert choices[0] != choices[1]


def test_caps_and_blends_are_curates_own(folder: Path, world: World) -> None:
    capped = chosen(folder, world, Selection(top="5", max_per_prompt=1))
    assert len(set(capped.prompt)) == 5
    blend = chosen(folder, world, Selection(psi="hpsv2,clip=2", top="8"))
    assert len(blend.prompt) == 8
    diverse = chosen(folder, world, Selection(top="5", diversity=0.9))
    assert len(set(diverse.prompt)) >= 4


def test_a_ranking_that_is_there_is_read_not_made(folder: Path, world: World) -> None:
    selection = Selection(top="7")
    chosen(folder, world, selection)
    files = sorted(folder.glob("accuracy-74-seed-0/rankings/*"))
    before = [path.stat().st_mtime_ns for path in files]
    chosen(folder, world, selection)
    assert [path.stat().st_mtime_ns for path in files] == before
