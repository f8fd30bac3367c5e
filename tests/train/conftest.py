"""Tiny models and shards, made once a session, and the command line run in process."""

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from jaxtyping import install_import_hook

from tests.train import tiny

CHECKED = [
    *(f"train.data.{name}" for name in ("batches", "buckets", "images", "latents", "random_draws")),
    *(f"train.data.latent_cache.{name}" for name in ("cache", "rows")),
    *(f"train.model.families.{name}" for name in ("family", "loading", "sd", "sd3", "sdxl", "zimage")),
    *(f"train.model.{name}" for name in ("lora", "policy")),
    *("train.objectives", "train.training.pair_errors"),
]
with install_import_hook(CHECKED, "beartype.beartype"):
    from train import cli
    from train.data import batches, buckets  # noqa: F401  (these import all the others)
    from train.data.latent_cache import cache  # noqa: F401
    from train.training import pair_errors  # noqa: F401


@dataclass(frozen=True)
class Outcome:
    """What a command left: exit code, stdout, stderr."""

    code: int
    out: str
    err: str

    def json(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.out)
        return document


Train = Callable[..., Outcome]


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Tiny tensors gain nothing from threads, and lose much on a busy machine."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def sd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_sd(tmp_path_factory.mktemp("models") / "sd")


@pytest.fixture(scope="session")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_sdxl(tmp_path_factory.mktemp("models") / "sdxl")


@pytest.fixture(scope="session")
def sd3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_sd3(tmp_path_factory.mktemp("models") / "sd3")


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six pairs in two tars. Read only: a test that changes shards takes `own_shards`."""
    samples = tiny.samples(6)
    return tiny.write_shards(tmp_path_factory.mktemp("data") / "shards", samples[:4], samples[4:])


@pytest.fixture
def own_shards(shards: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shards, tmp_path / "shards"))


@pytest.fixture(scope="session")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's recipe at the tiny models' size, with two uneven micro-steps a step."""
    path = tmp_path_factory.mktemp("recipes") / "tiny.toml"
    path.write_text(
        f"[data]\nresolution_px = {tiny.RESOLUTION_PX}\nflips = true\n"
        "[optimizer]\nlearning_rate = 1e-3\nwarmup_steps = 2\n"
        "[run]\nsteps = 4\nbatch_pairs = 3\nmicro_batch_pairs = 2\ncheckpoint_every_steps = 2\n"
    )
    return path


@pytest.fixture
def train(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Train]:
    """Run a `train` command in this process, as its entry point does."""

    def run(*arguments: object) -> Outcome:
        capsys.readouterr()
        AcceleratorState._reset_state(True)
        monkeypatch.setattr(sys, "argv", ["train", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = int(end.code or 0)
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    yield run
    AcceleratorState._reset_state(True)


@pytest.fixture
def run_tiny(train: Train, sd: Path, shards: Path, recipe_file: Path) -> Callable[..., Outcome]:
    """`train run` on the tiny model; options given later win over the ones here."""

    def run(output: Path, *options: object, model: Path = sd, shards: Path = shards) -> Outcome:
        fixed = ("--shards", shards, "--model", model, "--preset", "demo", "--config", recipe_file)
        return train("run", *fixed, "--output", output, "--json", *options)

    return run
