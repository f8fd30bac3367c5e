"""Caps and diversity by hand and beside the obvious slow version; what is passed over says why."""

from collections import Counter
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from curate.errors import RunError, UsageError
from curate.rank.filters import Filters
from curate.rank.selection.diversity import NEIGHBOURS, choose_diverse, near_duplicate_groups
from curate.rank.selection.selection import Limits
from curate.storage.run import Run
from tests.curate.runs import make_run, ranked, ranking_rows, selected

Judgements = list[tuple[str, str, int | None]]


def world(root: Path, seed: int, pairs: int = 60, prompts: int = 8, dimension: int = 4) -> Run:
    """Random judgements over few prompts, images and annotators; prompt embeddings in clusters of two."""
    random = np.random.default_rng(seed)
    of_pair = [f"p{k}" for k in random.integers(0, prompts, pairs)]
    judgements: Judgements = []
    for prompt in of_pair:
        one, two = random.choice(6, 2, replace=False)
        judgements.append((f"{prompt}-{one}", f"{prompt}-{two}", int(random.integers(2))))
    scores = {uid: (float(random.random()), float(random.normal())) for a, b, _ in judgements for uid in (a, b)}
    annotators = [None if random.random() < 0.1 else f"a{random.integers(4)}" for _ in of_pair]
    directions = random.normal(size=(prompts, dimension))
    directions[1::2] = directions[::2] + 0.05 * random.normal(size=directions[1::2].shape)
    embeddings = {f"p{k}": directions[k].tolist() for k in range(prompts)}
    return make_run(
        root, judgements, scores, prompts=of_pair, columns={"annotator_id": annotators}, embeddings=embeddings
    )


def annotator_of(run: Run) -> dict[str, str | None]:
    return {row["pair_id"]: row["annotator_id"] for row in pq.read_table(run.pairs).to_pylist()}


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 10**6),
    prompt=st.none() | st.integers(1, 4),
    image=st.none() | st.integers(1, 3),
    annotator=st.none() | st.integers(1, 9),
    top=st.integers(1, 60),
    ahead=st.sampled_from([1, 7, 1000]),
)
def test_caps_are_the_obvious_greedy_walk(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    prompt: int | None,
    image: int | None,
    annotator: int | None,
    top: int,
    ahead: int,
) -> None:
    run = world(tmp_path_factory.mktemp("caps"), seed)
    with patch("curate.rank.selection.selection.READ_AHEAD", ahead):
        report = ranked(run, top=str(top), limits=Limits(prompt, image, annotator))
    annotators, used, reasons = annotator_of(run), Counter[tuple[str, str]](), {}
    expected: list[str] = []
    rows = ranking_rows(run)
    for row in rows:
        who = annotators[row["pair_id"]]
        wants = [("max_per_prompt", row["prompt_id"], prompt)]
        wants += [("max_per_image", row[f"{side}_uid"], image) for side in ("preferred", "rejected")]
        wants += [("max_per_annotator", who, annotator)] if who is not None else []
        full = [kind for kind, key, most in wants if most is not None and used[kind, key] >= most]
        if len(expected) == top:
            break
        if full:
            reasons[row["pair_id"]] = full[0]
            continue
        expected.append(row["pair_id"])
        used.update((kind, key) for kind, key, _ in wants)
    assert selected(run) == expected
    last = max(row["rank"] for row in rows if row["selected"])
    passed = {row["pair_id"]: row["passed_over"] for row in rows if row["passed_over"]}
    assert passed == {row["pair_id"]: reasons[row["pair_id"]] for row in rows[:last] if not row["selected"]}
    assert report["passed_over"] == dict(Counter(passed.values()))
    assert report["selected_pairs"] == len(expected) == sum(row["selected"] for row in rows)


def test_limits_that_leave_too_few_say_so(tmp_path: Path) -> None:
    run = world(tmp_path / "run", 0)
    report = ranked(run, top="1.0", limits=Limits(per_prompt=1))
    assert (report["wanted_pairs"], report["selected_pairs"]) == (60, 8)
    assert report["coverage"] == {"prompts": 8, "selected_prompts": 8}


def test_a_selection_reads_far_beyond_its_first_stretch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("curate.rank.selection.selection.READ_AHEAD", 2)
    run = world(tmp_path / "run", 1)
    ranked(run, top="5", limits=Limits(per_prompt=1))
    few = selected(run)
    monkeypatch.setattr("curate.rank.selection.selection.READ_AHEAD", 1000)
    ranked(run, top="5", limits=Limits(per_prompt=1))
    assert few == selected(run)
    assert len(few) == 5


def test_near_duplicate_prompts_count_as_one(tmp_path: Path) -> None:
    run = world(tmp_path / "run", 2, dimension=16)
    report = ranked(run, top="1.0", limits=Limits(per_prompt=1, near_duplicates=0.95))
    kept = {row["prompt_id"] for row in ranking_rows(run) if row["selected"]}
    assert len(kept) == 4
    assert {int(prompt[1:]) // 2 for prompt in kept} == {0, 1, 2, 3}  # p0 and p1 are alike, and so on
    assert (report["coverage"]["groups"], report["coverage"]["selected_groups"]) == (4, 4)


def test_groups_are_chains_of_near_cosines() -> None:
    angles = np.radians([0, 10, 20, 60, 180])
    points = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    groups = near_duplicate_groups(points, float(np.cos(np.radians(11))))
    assert groups[0] == groups[1] == groups[2]
    assert len(set(groups.tolist())) == 3
    assert len(set(near_duplicate_groups(points, 1.0).tolist())) == 5
    assert len(set(near_duplicate_groups(np.repeat(points, 2, axis=0), 1.0).tolist())) == 5  # equal ones do join
    assert len(near_duplicate_groups(points[:0], 0.9)) == 0


def test_groups_do_not_depend_on_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    points = np.random.default_rng(0).normal(size=(90, 3)).astype(np.float32)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    whole = near_duplicate_groups(points, 0.98)
    monkeypatch.setattr("curate.rank.selection.diversity.BLOCK", 4)
    assert (near_duplicate_groups(points, 0.98) == whole).all()
    cosines = points @ points.T
    slow = {(i, j) for i in range(90) for j in range(i) if cosines[i, j] >= 0.98}
    assert all(whole[i] == whole[j] for i, j in slow)
    assert len(set(whole.tolist())) > 10


def test_groups_where_all_are_alike_are_one() -> None:
    points = np.tile(np.array([0.6, 0.8], np.float32), (3000, 1))
    assert near_duplicate_groups(points, 0.5).max() == 0


def test_near_duplicates_alone_only_report(tmp_path: Path) -> None:
    run = world(tmp_path / "run", 2, dimension=16)
    plain = ranked(run, "plain", top="10")
    counted = ranked(run, "counted", top="10", limits=Limits(near_duplicates=0.95))
    assert selected(run, "plain") == selected(run, "counted")
    assert set(counted["coverage"]) > set(plain["coverage"]) | {"groups", "topics"}


def test_topics_are_of_the_source_not_of_what_a_filter_left(tmp_path: Path) -> None:
    run = world(tmp_path / "run", 3, pairs=200, prompts=40)
    report = ranked(run, top="1.0", limits=Limits(near_duplicates=1.0), filters=Filters(where="prompt_id < 'p2'"))
    assert report["coverage"]["groups"] == 40
    assert report["coverage"]["selected_groups"] == report["coverage"]["prompts"] < 40


@pytest.mark.parametrize("limits", [Limits(diversity=0.5), Limits(per_prompt=1, near_duplicates=0.9)])
def test_a_prompt_without_a_row_is_an_error(tmp_path: Path, limits: Limits) -> None:
    run = world(tmp_path / "run", 4)
    path = run.table("prompts") / "p.parquet"
    pq.write_table(pq.read_table(path).slice(1), path)
    with pytest.raises(RunError, match="prompt p0 has no row in the run's prompts"):
        ranked(run, limits=limits)


def slow_diverse(prompt: np.ndarray, embeddings: np.ndarray, weight: float, count: int) -> list[int]:
    """Every remaining pair's value, anew for each choice."""
    quality = 1 - np.arange(len(prompt)) / max(len(prompt) - 1, 1)
    distance = np.round(np.clip(1 - embeddings @ embeddings.T, 0, 1), 4)
    chosen: list[int] = []
    while len(chosen) < min(count, len(prompt)):
        values = np.full(len(prompt), -np.inf)
        for pair in set(range(len(prompt))) - set(chosen):
            near = sorted([*(distance[prompt[pair], prompt[other]] for other in chosen), *[1.0] * NEIGHBOURS])
            values[pair] = (1 - weight) * quality[pair] + weight * np.mean(near[:NEIGHBOURS], dtype=np.float64)
        chosen.append(int(values.argmax()))
    return chosen


@pytest.mark.parametrize("weight", [0.0, 0.2, 0.7, 1.0])
@pytest.mark.parametrize("block", [3, 512])
def test_diversity_is_the_obvious_greedy_choice(monkeypatch: pytest.MonkeyPatch, weight: float, block: int) -> None:
    monkeypatch.setattr("curate.rank.selection.diversity.BLOCK", block)
    monkeypatch.setattr("curate.rank.selection.diversity.TOGETHER", 2)
    monkeypatch.setattr("curate.rank.selection.diversity.FOLD", 3)
    random = np.random.default_rng(block)
    embeddings = random.normal(size=(25, 6)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    prompt = random.integers(0, 25, 140)
    found = choose_diverse(prompt, embeddings, weight, 70, lambda pair: True)
    assert found == slow_diverse(prompt, embeddings, weight, 70)


def test_no_weight_of_diversity_is_the_rank_order() -> None:
    random = np.random.default_rng(0)
    embeddings = random.normal(size=(10, 3)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    assert choose_diverse(random.integers(0, 10, 50), embeddings, 0.0, 20, lambda pair: True) == list(range(20))


def test_more_than_there_is_chooses_all() -> None:
    embeddings = np.eye(3, dtype=np.float32)
    assert sorted(choose_diverse(np.array([0, 1, 0]), embeddings, 0.5, 99, lambda pair: True)) == [0, 1, 2]
    assert choose_diverse(np.array([0, 1, 0]), embeddings, 0.5, 99, lambda pair: False) == []


def test_diversity_spreads_over_prompts_and_says_what_it_passed_over(tmp_path: Path) -> None:
    run = world(tmp_path / "run", 3, pairs=200, prompts=40)
    plain = ranked(run, "plain", top="20")
    spread = ranked(run, "spread", top="20", limits=Limits(diversity=0.6))
    assert spread["coverage"]["selected_prompts"] > plain["coverage"]["selected_prompts"]
    assert spread["selected_pairs"] == 20
    assert set(spread["passed_over"]) == {"diversity"}
    assert {"topics", "selected_topics", "effective_topics"} <= set(spread["coverage"])
    assert 1 <= spread["coverage"]["effective_topics"] <= spread["coverage"]["selected_topics"]
    again = ranked(run, "again", top="20", limits=Limits(diversity=0.6))
    assert selected(run, "again") == selected(run, "spread")
    assert again["coverage"] == spread["coverage"]


def test_diversity_keeps_the_caps(tmp_path: Path) -> None:
    run = world(tmp_path / "run", 4)
    report = ranked(run, top="30", limits=Limits(per_prompt=2, per_image=1, diversity=0.5))
    rows = [row for row in ranking_rows(run) if row["selected"]]
    assert max(Counter(row["prompt_id"] for row in rows).values()) <= 2
    images = Counter(row[f"{side}_uid"] for row in rows for side in ("preferred", "rejected"))
    assert max(images.values()) == 1
    assert set(report["passed_over"]) <= {"max_per_prompt", "max_per_image", "diversity"}


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (Limits(per_prompt=0), "--max-per-prompt 0: give 1 or more"),
        (Limits(per_annotator=-3), "--max-per-annotator -3: give 1 or more"),
        (Limits(diversity=1.5), "--diversity 1.5: give a number from 0 to 1"),
        (Limits(near_duplicates=1.1), "--near-duplicates 1.1: give a number from 0 to 1"),
    ],
)
def test_impossible_limits_are_refused(tmp_path: Path, limits: Limits, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ranked(world(tmp_path / "run", 0), limits=limits)


def test_a_run_without_embeddings_says_so(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [("a", "b", 0)], {"a": (0.1, 1.0), "b": (0.2, 2.0)})
    with pytest.raises(RunError, match="the run's prompts have no embeddings to compare; embed again"):
        ranked(run, limits=Limits(diversity=0.5))
