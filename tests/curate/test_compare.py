"""Verdicts against counts worked by hand and a naive bootstrap; the page stands alone."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from curate.stages.compare import clustered_interval, verdict
from tests.curate.builders import MODELS, Outcome, pair_row, write_pairs

Curate = Callable[..., Outcome]


def test_a_verdict_by_hand() -> None:
    table = pa.table(
        {
            "prompt_id": ["p", "p", "q", "r"],
            "clip_model": pa.array([0.5, 0.3, 0.2, 0.9], pa.float32()),
            "clip_against": pa.array([0.25, 0.3, 0.7, 0.4], pa.float32()),
        }
    )
    found = verdict(table, "clip", resamples=100)
    assert (found.pairs, found.wins, found.ties, found.losses) == (4, 2, 1, 1)
    assert found.win_rate == pytest.approx(2.5 / 4)
    assert found.mean_model == pytest.approx(1.9 / 4)
    assert found.mean_change == pytest.approx((0.25 + 0 - 0.5 + 0.5) / 4)
    assert found.median_change == pytest.approx(0.125)
    assert 0 <= found.win_rate_low <= found.win_rate <= found.win_rate_high <= 1


def test_the_interval_equals_a_naive_cluster_bootstrap() -> None:
    random = np.random.default_rng(1)
    cluster = np.repeat(np.arange(40), random.integers(1, 6, 40))
    values = random.normal(size=len(cluster)) + np.repeat(random.normal(size=40), np.bincount(cluster))
    low, high = clustered_interval(values, cluster, 10_000)
    means = []
    for _ in range(4000):
        drawn = random.integers(0, 40, 40)
        means.append(np.concatenate([values[cluster == one] for one in drawn]).mean())
    assert (low, high) == pytest.approx(tuple(np.quantile(means, (0.025, 0.975))), abs=0.03)


def test_pictures_of_one_prompt_do_not_narrow_the_interval() -> None:
    """Ten copies of each prompt's outcome carry no more news than one."""
    points = np.random.default_rng(0).integers(0, 2, 50).astype(float)
    once = clustered_interval(points, np.arange(50), 5000)
    repeated = clustered_interval(np.repeat(points, 10), np.repeat(np.arange(50), 10), 5000)
    assert repeated == pytest.approx(once, abs=1e-9)


def embedded(curate: Curate, tmp_path: Path, rows: list[dict[str, object]]) -> Path:
    file, run = write_pairs(tmp_path / "pairs.parquet", rows), tmp_path / "run"
    done = curate(
        "embed",
        "--run",
        run,
        "--manifest",
        "pickapic_v2",
        "--source",
        file,
        "--models",
        MODELS,
        "--scorers",
        "clip,hpsv2",
    )
    assert done.code == 0, done.err
    return run


def test_report_and_page(curate: Curate, tmp_path: Path) -> None:
    rows = [pair_row(2 * i, caption=f"prompt <{i}> & more") for i in range(8)]
    run = embedded(curate, tmp_path, rows)
    done = curate("compare", "--run", run)
    assert done.code == 0, done.err
    assert done.out.startswith("alpha against beta: 8 pairs over 8 prompts\n")
    report = json.loads((run / "compare.json").read_text())
    assert [item["scorer"] for item in report["verdicts"]] == ["clip", "hpsv2"]
    scores = json.loads(
        curate(
            "sql",
            "select avg((a.clip_score > b.clip_score)::int) as rate from pairs "
            "join scores a on a.image_uid = image_0_uid join scores b on b.image_uid = image_1_uid",
            "--run", run, "--json",
        ).out
    )  # fmt: skip
    assert report["verdicts"][0]["win_rate"] == pytest.approx(scores[0]["rate"])
    page = (run / "compare.html").read_text()
    assert page.count("<article") == 8
    assert "prompt &lt;3&gt; &amp; more" in page
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    assert "http" not in re.sub(r"base64,[A-Za-z0-9+/=]+", "", page)


def test_swapping_the_models_mirrors_the_verdict(curate: Curate, tmp_path: Path) -> None:
    run = embedded(curate, tmp_path, [pair_row(2 * i) for i in range(6)])
    forward = json.loads(curate("compare", "--run", run, "--json").out)
    backward = json.loads(curate("compare", "--run", run, "--model", "beta", "--json").out)
    assert (backward["model"], backward["against"]) == ("beta", "alpha")
    for one, other in zip(forward["verdicts"], backward["verdicts"], strict=True):
        assert one["win_rate"] == pytest.approx(1 - other["win_rate"])
        assert one["mean_change"] == pytest.approx(-other["mean_change"])
        assert (one["wins"], one["losses"]) == (other["losses"], other["wins"])


def test_pairs_judged_by_many_count_once(curate: Curate, tmp_path: Path) -> None:
    run = embedded(curate, tmp_path, [pair_row(0, ranking_id=i) for i in range(5)])
    assert json.loads(curate("compare", "--run", run, "--json").out)["pairs"] == 1


def test_mixed_sides_are_oriented_by_model(curate: Curate, tmp_path: Path) -> None:
    rows = [pair_row(0), pair_row(2, model_0="beta", model_1="alpha")]
    run = embedded(curate, tmp_path, rows)
    report = json.loads(curate("compare", "--run", run, "--model", "alpha", "--json").out)
    assert report["pairs"] == 2


def test_more_than_two_models_need_a_choice(curate: Curate, tmp_path: Path) -> None:
    run = embedded(curate, tmp_path, [pair_row(0), pair_row(2, model_1="gamma")])
    stopped = curate("compare", "--run", run)
    assert (stopped.code, stopped.out) == (1, "")
    assert stopped.err == (
        f"curate: {run} has pictures of 3 models; name two with --model and --against; known: alpha, beta, gamma\n"
    )
    stopped = curate("compare", "--run", run, "--model", "gama", "--against", "alpha")
    assert stopped.err == f"curate: no picture in {run} was drawn by 'gama'; did you mean 'gamma'?\n"


def test_pictures_without_models_say_what_to_map(curate: Curate, tmp_path: Path) -> None:
    run = embedded(curate, tmp_path, [pair_row(0, model_0=None, model_1=None)])
    stopped = curate("compare", "--run", run)
    assert stopped.err == (
        f"curate: the pairs of {run} do not say which model drew each image; map image_0_model and image_1_model\n"
    )
