"""`curate fetch`: a run at a URL becomes a run directory; every file by its sha256, none twice, no two runs mixed."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from curate import cli
from curate.embed import fetch as stage
from curate.errors import RunError
from curate.storage.run import Run, RunFiles
from curate.storage.url_folder import UrlFolder
from tests.curate.builders import MODELS, Outcome, pair_row, write_pairs

Curate = Callable[..., Outcome]
PRISTINE, URL = "memory://kept/run", "memory://fetch/run"
AGAIN = f"run `curate embed --run {URL}` again, then fetch again"


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Twenty pairs in four parts, embedded in memory."""
    source = write_pairs(tmp_path_factory.mktemp("s") / "s.parquet", (pair_row(i) for i in range(20)))
    options = ["--manifest", "pickapic_v2", "--models", MODELS, "--source", str(source), "--device", "cpu"]
    cli.app(["embed", *options, "--scorers", "clip", "--part-images", "6", "--run", PRISTINE], standalone_mode=False)
    yield
    fsspec.filesystem("memory").rm("/kept", recursive=True)


@pytest.fixture
def remote(embedded: None) -> Iterator[UrlFolder]:
    """A copy of the run, to be damaged."""
    memory = fsspec.filesystem("memory")
    memory.copy("/kept/run", "/fetch/run", recursive=True)
    yield UrlFolder(URL)
    memory.rm("/fetch", recursive=True)


def fetch(curate: Curate, run: Path) -> dict[str, Any]:
    done = curate("fetch", URL, "--run", run, "--json")
    assert done.code == 0, done.err
    return dict(json.loads(done.out))


def refused(curate: Curate, run: Path, message: str) -> None:
    assert curate("fetch", URL, "--run", run).err.splitlines()[-1] == f"curate: {message}"


def test_a_fetched_run_is_the_run(curate: Curate, remote: UrlFolder, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = curate("fetch", URL, "--run", run)
    assert done.code == 0, done.err
    assert done.out.startswith("files   15 = 15 fetched + 0 already there; 4 parts, 0.")
    assert done.out.endswith(f"run     {run}, the same as {URL}; `curate rank --run {run}` goes on from here\n")
    found = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()} - {".lock"}
    there = {name.removeprefix("/fetch/run/") for name in fsspec.filesystem("memory").find("/fetch/run")}
    assert there == found
    assert all((run / name).read_bytes() == remote.read(name) for name in found)
    assert curate("status", "--run", run).out.startswith(f"finished  {run}\nprogress  images 21/21, ")
    assert json.loads(curate("verify", run, "--json").out)["sound"]
    assert curate("rank", "--run", run, "--psi", "clip", "--top", "4").code == 0
    report = fetch(curate, run)
    assert (report["files"], report["files_fetched"], report["bytes_fetched"]) == (15, 0, 0)


def test_a_killed_fetch_goes_on(
    curate: Curate, remote: UrlFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It dies at the ninth file: nothing can be ranked, no file is cut short, and the others are fetched once."""
    run, get = tmp_path / "run", UrlFolder.get
    fetched: list[str] = []

    def dying(self: UrlFolder, name: str, local: Path) -> None:
        if len(fetched) >= 8:
            raise KeyboardInterrupt
        fetched.append(name)
        get(self, name, local)

    monkeypatch.setattr(UrlFolder, "get", dying)
    with pytest.raises(KeyboardInterrupt):
        stage.fetch(URL, Run(run))
    monkeypatch.setattr(UrlFolder, "get", get)
    with pytest.raises(RunError, match="has not finished"):
        Run(run).summary()
    assert not list(run.rglob("*.tmp"))
    report = fetch(curate, run)
    assert report["files_fetched"] == 15 - len(fetched)
    assert json.loads(curate("verify", run, "--json").out)["sound"]


def test_what_is_damaged_here_is_fetched_again(curate: Curate, remote: UrlFolder, tmp_path: Path) -> None:
    run = tmp_path / "run"
    fetch(curate, run)
    image, marker = run / "images" / "part-00002.parquet", run / "parts" / "part-00001.json"
    image.write_bytes(image.read_bytes()[:-1] + b"?")
    marker.write_bytes(b"{" * len(marker.read_bytes()))
    assert fetch(curate, run)["files_fetched"] == 1
    assert image.read_bytes() == remote.read("images/part-00002.parquet")
    assert marker.read_bytes() == remote.read("parts/part-00001.json")


@pytest.mark.parametrize("file", ["images/part-00002.parquet", "prompts/prompts-00000.parquet", "pairs.parquet"])
def test_what_is_damaged_there_is_named(curate: Curate, remote: UrlFolder, tmp_path: Path, file: str) -> None:
    """Its size is right, only its bytes are not. Removed and embedded again, it is brought."""
    data = remote.read(file)
    remote.write(file, data[:-1] + b"?")
    message = f"{URL}/{file} is damaged: its sha256 is not that of its marker; remove it, {AGAIN}"
    refused(curate, tmp_path / "run", message)
    assert not (tmp_path / "run" / file).exists()
    remote.write(file, data)
    fetch(curate, tmp_path / "run")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("scores/part-00001.parquet", None, f"{URL}/scores/part-00001.parquet is missing; {AGAIN}"),
        ("parts/part-00003.json", None, f"{URL}/parts/part-00003.json is missing; {AGAIN}"),
        (
            *("parts/part-00003.json", b'{"../../x": {"bytes": 1, "sha256": ""}}'),
            f"{URL}/parts/part-00003.json is damaged (it names ../../x); {AGAIN}",
        ),
        ("parts/part-00003.json", b'{"x": {}}', f"{URL}/parts/part-00003.json is damaged ('bytes'); {AGAIN}"),
        (
            *("embed.json", None),
            f"`curate embed` has not finished in {URL}; run it again, it goes on where it stopped",
        ),
        ("run.toml", None, f"no run in {URL}; run `curate embed --run {URL}` first"),
    ],
)
def test_what_is_missing_or_no_marker_is_named(
    curate: Curate, remote: UrlFolder, tmp_path: Path, file: str, content: bytes | None, message: str
) -> None:
    remote.remove(file)
    if content is not None:
        remote.write(file, content)
    refused(curate, tmp_path / "run", message)
    with pytest.raises(RunError):
        Run(tmp_path / "run").summary()


def test_two_runs_are_not_mixed(curate: Curate, remote: UrlFolder, tmp_path: Path) -> None:
    run = tmp_path / "run"
    fetch(curate, run)
    settings = RunFiles(remote).settings()["settings"] | {"part_images": 7}
    remote.remove("run.toml")
    RunFiles(remote).claim(settings, {})
    before = (run / "embed.json").read_bytes()
    refused(
        curate,
        run,
        f"{run} holds another run than {URL}: part_images is 6 here, 7 there; use another --run, or delete {run}",
    )
    assert (run / "embed.json").read_bytes() == before
    (run / "run.toml").unlink()
    refused(curate, run, f"{run} holds tables without a run.toml; use another --run, or delete {run}")


def test_a_run_at_a_url_is_verified_as_it_is_fetched(curate: Curate, remote: UrlFolder) -> None:
    outcome = curate("verify", URL)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err == (
        f"curate: {URL} is a run at a URL; `curate fetch` checks every file of it as it brings it to a folder\n"
    )
