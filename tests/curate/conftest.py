"""The command line run in process, and a small source."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from curate import cli
from tests.curate.builders import Outcome, pair_row, write_pairs


@pytest.fixture
def curate(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run `curate ARGS` in this process, through the same entry point as the installed command."""

    def run(*args: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["curate", *map(str, args)])
        capsys.readouterr()
        try:
            cli.main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run


@pytest.fixture
def source_file(tmp_path: Path) -> Path:
    """Twenty judged pairs over five prompts and 21 images, no ties."""
    return write_pairs(tmp_path / "source" / "train-0.parquet", (pair_row(i) for i in range(20)))
