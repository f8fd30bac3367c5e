"""An export to the hub, by its own client, against a stand-in of its HTTP interface; where the client needs no Xet."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import constants

from tests.curate.builders import Outcome
from tests.curate.web import Web

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # the client's, of its own call
Curate = Callable[..., Outcome]
TOKEN = "hf_aTokenOfThisTestAlone"
HUB = "hf://datasets/owner/pairs"


@pytest.fixture
def hub(web: Web, monkeypatch: pytest.MonkeyPatch) -> Web:
    """Large files go by LFS, which a few lines can stand in for; Xet's storage speaks a protocol of its own."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", web.url)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return web


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_shards_and_card_in_one_commit_and_no_token_anywhere(
    curate: Curate, hub: Web, ranked_run: Path, tmp_path: Path
) -> None:
    done = curate("export-shards", "--run", ranked_run, "--output", HUB, "--pairs-per-shard", 5)
    assert done.code == 0, done.err
    curate("export-shards", "--run", ranked_run, "--output", tmp_path / "here", "--pairs-per-shard", 5)
    assert hub.repositories["datasets/owner/pairs"] == contents(tmp_path / "here")
    assert hub.asked("POST .*/commit/main") == 1
    assert hub.authorizations == {f"Bearer {TOKEN}", None}  # None: what is sent to storage by a signed URL
    assert TOKEN not in done.out + done.err
    assert not any(TOKEN.encode() in data for data in [*contents(tmp_path).values(), *contents(ranked_run).values()])
    assert not list((ranked_run / ".export").iterdir())


def test_fewer_shards_replace_more_and_a_card_of_ones_own_stays(curate: Curate, hub: Web, ranked_run: Path) -> None:
    files = hub.repositories["datasets/owner/pairs"] = {"README.md": b"mine", "notes.txt": b"mine, too"}
    for pairs in (3, 9):
        done = curate("export-shards", "--run", ranked_run, "--output", HUB, "--pairs-per-shard", pairs)
        assert done.code == 0, done.err
        assert f"{HUB}/README.md is not ours and stays as it is" in done.err
    assert sorted(files) == ["README.md", "notes.txt", "pairs-000000.tar", "pairs-000001.tar", "shards.json"]
    assert files["README.md"] == b"mine"


def test_a_hub_that_refuses_then_takes_it(curate: Curate, hub: Web, ranked_run: Path) -> None:
    """What was made waits in the run; what the hub has already is not sent again; another layout replaces it."""
    hub.fail(403, "/commit/main", times=2)
    assert curate("export-for", "folders", "--run", ranked_run, "--output", HUB).code == 1
    assert hub.asked("PUT /upload/") == 24
    export = ("export-for", "parquet", "--run", ranked_run, "--output", HUB)
    stopped = curate(*export)
    assert stopped.code == 1
    assert stopped.err.splitlines()[-1].startswith(f"curate: {HUB} cannot be written: the server answers 403 Forbidden")
    assert stopped.err.endswith("look at the name and the token, then run again\n")
    assert hub.asked("PUT /upload/") == 25
    done = curate(*export)
    assert done.code == 0, done.err
    assert hub.asked("PUT /upload/") == 25
    files = hub.repositories["datasets/owner/pairs"]
    assert json.loads(files["export.json"])["layout"] == "parquet"
    assert sorted(files) == ["README.md", "data/train-00000-of-00001.parquet", "export.json"]
    assert not list((ranked_run / ".export").iterdir())


@pytest.mark.parametrize("command", [("export-shards",), ("export-for", "parquet")])
def test_a_dry_run_says_what_would_be_written_and_writes_nothing(
    curate: Curate, hub: Web, ranked_run: Path, command: tuple[str, ...]
) -> None:
    before = contents(ranked_run)
    done = curate(*command, "--run", ranked_run, "--output", HUB, "--dry-run")
    assert done.code == 0, done.err
    assert done.out.startswith("would write  12 pairs over 7 prompts, 24 pictures of 0.")
    assert done.out.endswith(f" MB: {HUB}\n")
    assert (contents(ranked_run), hub.requests) == (before, [])


@pytest.mark.parametrize("output", ["hf://owner/pairs", "hf://datasets/pairs", "hf://datasets/a/b/c"])
def test_what_is_no_data_set_of_the_hub(curate: Curate, ranked_run: Path, output: str) -> None:
    stopped = curate("export-shards", "--run", ranked_run, "--output", output)
    assert (stopped.code, stopped.err) == (2, f"curate: --output {output}: write hf://datasets/OWNER/NAME\n")
