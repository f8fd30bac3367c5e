"""What one call per batch gives each scorer, and runs of scorers that read the prompt alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from curate.errors import RunError
from curate.models.scorers import Matched, scores_of
from curate.models.scoring import EmbeddedPrompts, Scoring, stacked
from curate.rank.psi import Psi
from curate.storage.run import Run
from tests.curate.builders import Outcome, pair_row, write_pairs
from tests.curate.runs import make_run, ranked

Curate = Callable[..., Outcome]


class Recorder:
    """Looks at pixels and keeps what it was called with."""

    preprocessing = "shared"

    def __init__(self) -> None:
        self.calls: list[Matched] = []

    def preprocess(self, image: Any) -> torch.Tensor:
        return torch.zeros(1)

    def __call__(self, matched: Matched) -> list[int]:
        self.calls.append(matched)
        return list(range(len(matched)))


def test_each_row_meets_its_prompt_and_picture() -> None:
    """Three pictures, prompts in another order than the rows; two scorers of one preprocessing share its pixels."""
    one, two = Recorder(), Recorder()
    scoring = Scoring({}, {"one": (one, None), "two": (two, None)}, {}, "mine")
    assert list(scoring.preprocessors) == ["shared"]
    pictures = stacked([{"shared": torch.full((3, 2, 2), float(value))} for value in range(3)])
    prompts = EmbeddedPrompts({"p": 1, "q": 0}, ["second", "first"], {})
    _, scores = scoring.score_pictures(pictures, [(2, "p"), (0, "q"), (2, "q")], prompts)
    assert scores["one"].tolist() == [0.0, 1.0, 2.0]
    (seen,) = one.calls
    assert seen.texts == ["first", "second", "second"]
    assert seen.pixels.shape == (3, 3, 2, 2)
    assert seen.pixels[seen.rows][:, 0, 0, 0].tolist() == [2.0, 0.0, 2.0]
    assert seen.pixels is two.calls[0].pixels


def test_no_gradient_is_kept() -> None:
    layer = torch.nn.Linear(2, 1)
    matched = Matched(["a"], (torch.ones(1, 2), torch.ones(1, 2)))
    assert not scores_of("mine", lambda matched: layer(matched.images).squeeze(1), matched).requires_grad


def test_a_flag_of_prompts_goes_through_the_commands(tmp_path: Path, curate: Curate) -> None:
    """Beside a tower's scorer: a column that never differs within a pair harms neither calibration nor report."""
    rows = [pair_row(i) for i in range(20)]
    for row in rows[4:8]:
        row["caption"] = "A NUDE circle"
    source, run = write_pairs(tmp_path / "s.parquet", rows), tmp_path / "run"
    options = ["--manifest", "pickapic_v2", "--models", "demo", "--source", source, "--device", "cpu"]
    done = curate("embed", *options, "--scorers", "clip,nsfw_words", "--run", run)
    assert done.code == 0, done.err
    flags = pq.read_table(run / "scores")["nsfw_words_score"].to_pylist()
    assert (len(flags), sum(flags)) == (25, 5.0)
    stated = Run(run).settings()["settings"]["models"]["scorers"]["nsfw_words"]
    assert (stated["head"], len(stated["sha256"])) == ("words", 64)
    assert "20 = 20 ranked" in curate("rank", "--run", run, "--psi", "clip", "--metric", "calibrated").out
    done = curate("rank", "--run", run, "--psi", "clip", "--max-nsfw", "0.5")
    assert "20 = 16 ranked + 4 nsfw" in done.out
    assert "nsfw      at most 0.5 by nsfw_words" in done.out
    assert curate("report", "--run", run).code == 0


def test_a_run_without_a_judging_scorer_has_nothing_to_calibrate_on(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [("a", "b", 0)], {"a": (0.0,), "b": (0.0,)}, ("nsfw_words",))
    with pytest.raises(RunError) as caught:
        ranked(run, metric="calibrated", psi=Psi({"nsfw_words": 1.0}, "raw"))
    assert str(caught.value) == "the run's scorers (nsfw_words) say nothing of quality: nothing to calibrate on"
