"""`curate verify` says nothing of what is sound, and names every kind of damage where it is."""

import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from webdataset import TarWriter

from curate import cli
from tests.curate.builders import Outcome, picture_bytes

Curate = Callable[..., Outcome]


@pytest.fixture(scope="module")
def exported(ranked_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with two rankings, and in `shards` the twelve pairs of one of them in three tars; copy it to change it."""
    run = Path(shutil.copytree(ranked_run, tmp_path_factory.mktemp("exported") / "run"))
    arguments = ["export-shards", "--run", str(run), "--output", str(run / "shards"), "--pairs-per-shard", "5"]
    cli.app(arguments, standalone_mode=False)
    return run


@pytest.fixture
def run(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "run"))


def verified(curate: Curate, *arguments: object) -> tuple[int, dict[str, Any]]:
    outcome = curate("verify", *arguments, "--json")
    return outcome.code, json.loads(outcome.out)


def faults(curate: Curate, *arguments: object) -> list[tuple[str, str]]:
    """Where and what; there must be some."""
    code, report = verified(curate, *arguments)
    assert (code, report["sound"]) == (1, False)
    return [(fault["where"], fault["what"]) for fault in report["faults"]]


def rewritten(folder: Path, change: Callable[[dict[str, dict[str, Any]]], None]) -> None:
    """The first tar with its samples changed, its index made to match: only the samples' own words can tell."""
    path, samples = folder / "pairs-000000.tar", dict[str, dict[str, Any]]()
    with tarfile.open(path) as tar:
        for item in tar:
            key, _, member = item.name.partition(".")
            samples.setdefault(key, {})[member] = tar.extractfile(item).read()  # type: ignore[union-attr]
    change(samples)
    written = io.BytesIO()
    with TarWriter(written, encoder=False, mtime=0.0) as tar:
        for key, sample in samples.items():
            tar.write({"__key__": key, **sample})
    path.write_bytes(written.getvalue())
    index = json.loads((folder / "shards.json").read_text())
    index["shards"][0] |= {
        "bytes": len(written.getvalue()),
        "sha256": hashlib.sha256(written.getvalue()).hexdigest(),
        "samples": len(samples),
    }
    (folder / "shards.json").write_text(json.dumps(index))


def change_meta(sample: dict[str, Any], **changes: Any) -> None:
    sample["json"] = json.dumps(json.loads(sample["json"]) | changes).encode()


def test_sound_run_and_shards(curate: Curate, run: Path) -> None:
    code, report = verified(curate, run)
    assert (code, report["sound"], report["faults"], report["notes"]) == (0, True, [], [])
    found = report["checked"]
    assert (found["shards"], found["samples"], found["images"], found["compared with the ranking"]) == (3, 12, 24, 12)
    assert found["parts"] >= 2
    outcome = curate("verify", run / "shards")
    assert outcome.code == 0
    assert outcome.out.splitlines() == [
        "checked  3 shards, 12 samples, 24 images, 12 compared with the ranking",
        f"sound  {run}/shards",
    ]


def test_sound_splits(curate: Curate, run: Path) -> None:
    output = run.parent / "split"
    arguments = ("--run", run, "--output", output, "--split", "train=0.6,validation=0.4")
    assert curate("export-shards", *arguments).code == 0
    code, report = verified(curate, output)
    assert (code, report["checked"]["samples"]) == (0, 12)
    assert report["notes"] == ["no run directory: prompts are compared with their ids, not with the ranking"]
    code, report = verified(curate, output, "--run", run)
    assert (code, report["checked"]["compared with the ranking"], report["notes"]) == (0, 12, [])


def test_splits_that_are_not_as_stated(curate: Curate, run: Path) -> None:
    output = run.parent / "split"
    curate("export-shards", "--run", run, "--output", output, "--split", "a=0.5,b=0.5")
    stated = json.loads((output / "splits.json").read_text())
    changed = stated | {"splits": [stated["splits"][0] | {"index_sha256": "0" * 64, "pairs": 1}]}
    (output / "splits.json").write_text(json.dumps(changed))
    pairs = stated["splits"][0]["pairs"]
    assert faults(curate, output) == [
        ("a/shards.json", f"says {pairs} pairs, splits.json says 1"),
        ("a/shards.json", "its sha256 is not that of splits.json"),
        ("b", "is a split that splits.json does not name"),
    ]
    (output / "splits.json").write_text('{"splits": ["a"]}')
    assert ("splits.json", "its splits are no list of names and counts") in faults(curate, output)


def test_an_index_and_samples_that_lack_something(curate: Curate, run: Path) -> None:
    def lose(samples: dict[str, dict[str, Any]]) -> None:
        first = next(iter(samples.values()))
        first["json"] = json.dumps({k: v for k, v in json.loads(first["json"]).items() if k != "pair_id"}).encode()

    rewritten(run / "shards", lose)
    index = json.loads((run / "shards" / "shards.json").read_text())
    del index["shards"][1]["samples"]
    (run / "shards" / "shards.json").write_text(json.dumps(index | {"pairs": "many"}))
    found = faults(curate, run / "shards", "--run", run)
    assert ("shards.json", "1 of its entries lack file, samples, bytes or sha256") in found
    assert ("pairs-000001.tar", "is not in shards.json") in found
    assert ("shards.json", "says 'many' pairs, the tars hold 7") in found
    assert ("pairs-000000.tar: 000000001", "its json lacks pair_id") in found


def test_a_prompt_in_two_splits(curate: Curate, run: Path) -> None:
    output = run.parent / "split"
    curate("export-shards", "--run", run, "--output", output, "--split", "a=0.5,b=0.5")
    shutil.copytree(output / "a", output / "b", dirs_exist_ok=True)
    found = {what for _, what in faults(curate, output)}
    assert "its prompt is in the split 'a', too" in found


def test_every_kind_of_damage_to_a_tar(curate: Curate, run: Path) -> None:
    shards = run / "shards"
    flipped = bytearray((shards / "pairs-000000.tar").read_bytes())
    flipped[-20_000] ^= 1
    (shards / "pairs-000000.tar").write_bytes(flipped)
    cut = (shards / "pairs-000001.tar").read_bytes()
    (shards / "pairs-000001.tar").write_bytes(cut[: len(cut) // 2])
    (shards / "pairs-000002.tar").unlink()
    (shards / "pairs-000009.tar").write_bytes(b"")
    found = faults(curate, shards)
    assert ("pairs-000000.tar", "its sha256 is not that of the index") in found
    assert ("pairs-000001.tar", f"has {len(cut) // 2:,} bytes, the index says {len(cut):,}") in found
    assert ("pairs-000002.tar", "is missing") in found
    assert ("pairs-000009.tar", "is not in shards.json") in found
    assert any(where == "shards.json" and what.startswith("says 12 pairs, the tars hold ") for where, what in found)
    assert any("selected pairs of the ranking are in no shard" in what for _, what in found)


def test_every_kind_of_damage_to_a_sample(curate: Curate, run: Path) -> None:
    """The tars agree with their index, so the samples themselves are looked at."""

    def change(samples: dict[str, dict[str, Any]]) -> None:
        one, two, three, four, five = samples.values()
        one["preferred.jpg"] = picture_bytes(777, (32, 32))
        two["rejected.jpg"] = b"no picture"
        three["txt"] = b"another prompt"
        change_meta(four, quality=0.123)
        del five["txt"]

    rewritten(run / "shards", change)
    keys = [f"pairs-000000.tar: {rank:09d}" for rank in range(1, 6)]
    found = faults(curate, run / "shards")
    by_key = {key: [what for where, what in found if where == key] for key in keys}
    assert by_key[keys[0]] == [
        "preferred: its sha256 is not that of the json",
        "preferred: its width is 32, the json says 64",
        "preferred: its height is 32, the json says 64",
    ]
    assert by_key[keys[1]][0] == "rejected: its sha256 is not that of the json"
    assert by_key[keys[1]][1].startswith("rejected: it does not decode: ")
    assert by_key[keys[2]][0].startswith("its prompt is not that of prompt_id ")
    assert by_key[keys[2]][1].startswith("its prompt is 'another prompt', the ranking says 'a red circle number ")
    assert by_key[keys[3]][0].startswith("its quality is 0.123, the ranking says ")
    assert by_key[keys[4]] == [
        "its members are json, preferred.jpg, rejected.jpg; they should be json, preferred, rejected, txt"
    ]


def test_shards_of_another_ranking(curate: Curate, run: Path) -> None:
    """Ranked anew under the same name: the shards no longer hold what is selected."""
    assert curate("rank", "--run", run, "--top", "9", "--reverse").code == 0
    found = [what for _, what in faults(curate, run / "shards")]
    assert any(what.startswith("the ranking does not select the pair ") for what in found)
    assert any(what.startswith("9 selected pairs of the ranking are in no shard") for what in found)


def test_unfinished_export(curate: Curate, run: Path) -> None:
    (run / "shards" / "shards.json").rename(run / "shards" / "unfinished.json")
    assert faults(curate, run / "shards") == [
        ("unfinished.json", "the export was not finished; run `curate export-shards` again")
    ]


@pytest.mark.parametrize("content", ["", "[]", '{"format": "other"}'])
def test_damaged_index(curate: Curate, run: Path, content: str) -> None:
    (run / "shards" / "shards.json").write_text(content)
    assert "shards.json" in {where for where, _ in faults(curate, run / "shards")}


def test_every_kind_of_damage_to_a_run(curate: Curate, run: Path) -> None:
    """The part that is damaged, gone or without its marker, and the counts that then differ."""
    images, scores = run / "images" / "part-00000.parquet", run / "scores" / "part-00000.parquet"
    data = bytearray(images.read_bytes())
    data[len(data) // 2] ^= 1
    images.write_bytes(data)
    shutil.copy(scores, run / "scores" / "part-00007.parquet")
    (run / "prompts" / "prompts-00000.parquet").unlink()
    ranking = run / "rankings" / "default.toml"
    ranking.write_text(ranking.read_text().replace("selected_pairs = 12", "selected_pairs = 13"))
    found = faults(curate, run)
    again = "run `curate embed` again"
    assert (
        "parts/part-00000.json: images/part-00000.parquet",
        f"its sha256 is not that of the marker; {again}",
    ) in found
    assert ("parts/prompts-00000.json: prompts/prompts-00000.parquet", f"is missing; {again}") in found
    assert (
        "scores/part-00007.parquet",
        "belongs to no part; `curate embed` was stopped here, or the marker is gone",
    ) in found
    assert ("rankings/default.parquet", "selects 12 pairs, its toml says 13") in found


def test_unfinished_run(curate: Curate, run: Path) -> None:
    (run / "embed.json").unlink()
    (run / "parts" / "part-00000.json").write_text("{")
    found = faults(curate, run)
    assert any("has not finished" in what for _, what in found)
    assert any(where == "parts/part-00000.json: marker" for where, _ in found)


def test_neither_a_run_nor_shards(curate: Curate, tmp_path: Path) -> None:
    assert curate("verify", tmp_path) == Outcome(
        2, "", f"curate: {tmp_path} is neither a run directory nor a folder of shards; name one of them\n"
    )
