"""The command line run in process, a small source, and an object store."""

import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import fsspec
import pytest

from curate import cli
from curate.storage import files
from tests.curate.builders import MODELS, Outcome, pair_row, write_pairs
from tests.curate.object_store import Gate, object_store
from tests.curate.web import Web, web_server


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


NASTY_PROMPT = "</script><script>document.title = 'broken'</script> & \"quotes\" <b>№ 0</b>"


@pytest.fixture(scope="session")
def ranked_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 60 pairs over 15 prompts, one tie and one row without a judgement, 12 selected; copy it to change it."""
    folder = tmp_path_factory.mktemp("ranked")
    rows = [pair_row(i) for i in range(62)]
    rows[60] |= {"label_0": 0.5, "label_1": 0.5}
    rows[61] |= {"has_label": False}
    for row in rows[:4]:
        row["caption"] = NASTY_PROMPT
    source = write_pairs(folder / "source" / "train-0.parquet", rows)
    embed = ["--manifest", "pickapic_v2", "--models", MODELS, "--source", str(source), "--device", "cpu"]
    cli.app(["embed", *embed, "--run", str(folder / "run")], standalone_mode=False)
    cli.app(["rank", "--run", str(folder / "run"), "--top", "12"], standalone_mode=False)
    return folder / "run"


@pytest.fixture(scope="module")
def served() -> Iterator[Gate]:
    """One store for all tests of a file."""
    with object_store() as gate:
        yield gate


@pytest.fixture
def gate(served: Gate, monkeypatch: pytest.MonkeyPatch) -> Gate:
    """The store with no failure ahead, waits that a test can bear, and nothing known of earlier listings."""
    monkeypatch.setattr(files, "RETRY_WAITS_SEC", (0.0, 0.0, 0.0))
    served.fail()
    served.requests.clear()
    fsspec.filesystem("s3").invalidate_cache()
    return served


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    """A web server that is the hub of this process, too, with a cache of its own and waits that a test can bear."""
    from huggingface_hub import close_session, constants

    monkeypatch.setattr(files, "RETRY_WAITS_SEC", (0.0, 0.0, 0.0))
    monkeypatch.setattr("huggingface_hub.utils._http.time", SimpleNamespace(sleep=lambda seconds: None))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with web_server() as server:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        files._hub.cache_clear()
        files._listed_sec.clear()
        yield server
        close_session()
        files._hub.cache_clear()


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Ctrl-C reaches these tests also where they were started in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
