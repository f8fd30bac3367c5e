"""Each layout is read back by the lines that its trainer reads it with; the bytes are the source's, best pair first."""

import hashlib
import importlib
import io
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq
import pytest
from PIL import Image

from curate.export import LayoutOptions, export_for
from curate.export.destination import Destination
from curate.export.layouts.found import GROUP
from curate.export.layouts.output import Output, Sample
from curate.export.layouts.parquet import write_pickapic
from curate.sources.parquet import Location, Source
from curate.storage import open_run
from tests.curate.builders import MODELS, Outcome

Curate = Callable[..., Outcome]
Expected = list[tuple[str, bytes, bytes]]
PAIRS = 12


@pytest.fixture
def ranked(ranked_run: Path) -> Path:
    """A run whose ranking selects twelve pairs; no test changes it."""
    return ranked_run


@pytest.fixture
def rows(ranked_run: Path) -> list[dict[str, Any]]:
    """The source's."""
    return list(pq.read_table(ranked_run.parent / "source/train-0.parquet").to_pylist())


@pytest.fixture
def expected(ranked: Path, rows: list[dict[str, Any]]) -> Expected:
    """Prompt, preferred and rejected bytes of each selected pair, best first, from the source's rows."""
    frame = open_run(ranked).frame("ranking")
    by_uids = {frozenset((row["image_0_uid"], row["image_1_uid"])): row for row in rows}
    found = []
    for pair in frame.filter(frame["selected"]).sort("rank").to_dicts():
        row = by_uids[frozenset((pair["preferred_uid"], pair["rejected_uid"]))]
        preferred, rejected = ("jpg_0", "jpg_1") if row["label_0"] == 1 else ("jpg_1", "jpg_0")
        found.append((row["caption"], row[preferred], row[rejected]))
    return found


def export(curate: Curate, run: Path, layout: str, output: Path, *more: object) -> dict[str, Any]:
    done = curate("export-for", layout, "--run", run, "--output", output, "--json", *more)
    assert done.code == 0, done.err
    return dict(json.loads(done.out))


def test_folders_pair_by_name_with_a_one_line_caption(
    curate: Curate, ranked: Path, expected: Expected, tmp_path: Path
) -> None:
    """As SimpleTuner: the data sets of its configuration, joined by file name, a caption a line of the text file."""
    report = export(curate, ranked, "folders", tmp_path / "out")
    preferred, rejected, texts = json.loads((tmp_path / "out/dataset_config.json").read_text())
    assert preferred["conditioning_data"] == [rejected["id"]]
    assert rejected["source_dataset_id"] == preferred["id"]
    assert rejected["conditioning_type"] == "reference_strict"
    assert (texts["dataset_type"], texts["default"]) == ("text_embeds", True)
    win, lose = Path(preferred["instance_data_dir"]), Path(rejected["instance_data_dir"])
    pictures = sorted(path.name for path in win.glob("*.jpg"))
    assert pictures == sorted(path.name for path in lose.glob("*.jpg"))
    for name, (prompt, chosen, other) in zip(pictures, expected, strict=True):
        assert ((win / name).read_bytes(), (lose / name).read_bytes()) == (chosen, other)
        for folder in (win, lose):
            (caption,) = (folder / name).with_suffix(".txt").read_text("utf-8").splitlines()
            assert caption == prompt
    assert (report["pairs"], report["files"], report["layout"]) == (PAIRS, PAIRS * 4 + 1, "folders")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        *("README.md", "dataset_config.json", "export.json", "lose", "win"),
    ]


def test_parquet_is_what_the_published_scripts_load(
    curate: Curate, ranked: Path, expected: Expected, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As train_diffusion_dpo.py: load_dataset of the folder, bytes opened by Pillow, sides turned by label_0."""
    monkeypatch.setattr("curate.export.layouts.parquet.PAIRS_PER_FILE", 5)
    monkeypatch.setattr("curate.export.layouts.parquet.PAIRS_PER_ROW_GROUP", 2)
    export(curate, ranked, "parquet", tmp_path / "out")
    assert len(list((tmp_path / "out/data").iterdir())) == 3
    loaded = datasets.load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded.column_names[1] == "caption"
    for example, (prompt, chosen, other) in zip(loaded, expected, strict=True):
        sides = [example["jpg_0"], example["jpg_1"]]
        assert example["caption"] == prompt
        assert (sides[::-1] if example["label_0"] == 0 else sides) == [chosen, other]
        assert Image.open(io.BytesIO(sides[0])).size == (64, 64)


def test_the_parquet_is_a_source_again(curate: Curate, ranked: Path, tmp_path: Path) -> None:
    export(curate, ranked, "parquet", tmp_path / "out")
    files = tmp_path / "out/data/*.parquet"
    options = ("--manifest", "pickapic_v2", "--source", files, "--models", MODELS, "--run", tmp_path / "again")
    done = curate("embed", *options, "--dry-run", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["pairs"] == PAIRS


def test_chosen_and_rejected_are_images_of_datasets(
    curate: Curate, ranked: Path, expected: Expected, tmp_path: Path
) -> None:
    export(curate, ranked, "chosen-rejected", tmp_path / "out")
    loaded = datasets.load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded.features["chosen"] == loaded.features["rejected"] == datasets.Image()
    for example, (prompt, chosen, other) in zip(loaded, expected, strict=True):
        assert example["prompt"] == prompt
        for picture, data in ((example["chosen"], chosen), (example["rejected"], other)):
            assert picture.convert("RGB").tobytes() == Image.open(io.BytesIO(data)).convert("RGB").tobytes()


def test_lines_of_json_are_read_by_both_trainers(
    curate: Curate, ranked: Path, expected: Expected, tmp_path: Path
) -> None:
    """As DiffSynth-Studio's UnifiedDataset and UnifiedReward's train.py."""
    out = tmp_path / "out"
    export(curate, ranked, "jsonl", out)
    lines = [json.loads(line) for line in (out / "metadata.jsonl").read_text("ascii").splitlines()]
    kinds = {name: datasets.Value("string") for name in ("id", "caption", "jpg_0", "jpg_1")}
    kinds |= {"label_0": datasets.Value("int32")}
    kinds |= {name: datasets.Value("string") for name in ("chosen_score", "rejected_score")}
    judged = datasets.load_dataset(
        "json",
        data_files=str(out / "dpo_data.json"),
        features=datasets.Features(kinds),
        split="train",
        cache_dir=str(tmp_path / "cache"),
    )
    assert judged.column_names[1] == "caption"
    for line, row, (prompt, chosen, other) in zip(lines, judged, expected, strict=True):
        assert line["prompt"] == row["caption"] == prompt
        assert [(out / line[key]).read_bytes() for key in ("image", "lose_image")] == [chosen, other]
        assert [(out / "images_dpo" / row[key]).read_bytes() for key in ("jpg_0", "jpg_1")] == [chosen, other]
        assert row["label_0"] == 1


def test_flow_factory_finds_strict_records(curate: Curate, ranked: Path, expected: Expected, tmp_path: Path) -> None:
    """Its schema: these keys and no others, paths below the folder of the file, no blank line."""
    export(curate, ranked, "flow-factory", tmp_path / "out")
    lines = (tmp_path / "out/train.jsonl").read_text("utf-8").splitlines()
    for line, (prompt, chosen, other) in zip(lines, expected, strict=True):
        record = json.loads(line)
        assert set(record) == {"schema_version", "input", "supervision", "metadata"}
        assert record["schema_version"] == 2
        assert record["input"] == {"prompt": prompt, "media": []}
        assert record["supervision"].pop("type") == "preference"
        for side, data in (("chosen", chosen), ("rejected", other)):
            (media,) = record["supervision"].pop(side).pop("media")
            assert media.pop("type") == "image"
            assert (tmp_path / "out" / media.pop("path")).read_bytes() == data
            assert not media
        assert not record["supervision"]


def test_splits_share_no_prompt_and_have_cards(
    curate: Curate, ranked: Path, expected: Expected, tmp_path: Path
) -> None:
    """The card of the whole tells `datasets` what the splits are; each split's folder is read by itself, too."""
    out = tmp_path / "out"
    report = export(curate, ranked, "parquet", out, "--split", "train=0.5,validation=0.5")
    loaded = datasets.load_dataset(str(out), cache_dir=str(tmp_path / "cache"))
    found = {split: [(row["caption"], row["jpg_0"], row["jpg_1"]) for row in rows] for split, rows in loaded.items()}
    assert {split: counts["pairs"] for split, counts in report["splits"].items()} == {
        s: len(f) for s, f in found.items()
    }
    assert sorted(found["train"] + found["validation"]) == sorted(expected)
    assert not {prompt for prompt, *_ in found["train"]} & {prompt for prompt, *_ in found["validation"]}
    alone = datasets.load_dataset(str(out / "validation"), split="train", cache_dir=str(tmp_path / "cache"))
    assert [row["caption"] for row in alone] == [prompt for prompt, *_ in found["validation"]]
    assert "in the layout `parquet` of `curate export-for`" in (out / "README.md").read_text("utf-8")


def test_pictures_are_encoded_anew_on_the_way(curate: Curate, ranked: Path, tmp_path: Path) -> None:
    report = export(curate, ranked, "folders", tmp_path / "out", "--reencode", "png", "--resize", "32")
    pictures = sorted((tmp_path / "out/win").glob("*.png"))
    assert len(pictures) == report["pairs"] == PAIRS
    assert {Image.open(io.BytesIO(path.read_bytes())).size for path in pictures} == {(32, 32)}
    assert report["encoded"]["reencode"].startswith("png")


def contents(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_killed_export_goes_on_without_reading_again_and_ends_the_same(
    curate: Curate, ranked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(curate, ranked, "parquet", tmp_path / "whole", "--workers", 1)
    with monkeypatch.context() as patch:
        patch.setattr("curate.export.layouts.found.OURS", {"parquet": _interrupted})
        assert curate("export-for", "parquet", "--run", ranked, "--output", tmp_path / "out").code == 130
    assert (tmp_path / "out/unfinished.json").exists()
    assert not (tmp_path / "out/export.json").exists()
    monkeypatch.setattr("curate.sources.parquet.Source.read_images", None)  # nothing is read
    export(curate, ranked, "parquet", tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def _interrupted(samples: Any, output: Any) -> None:
    next(samples)
    raise KeyboardInterrupt


def test_a_full_disk_leaves_no_part_of_a_file(
    curate: Curate, ranked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(samples: Any, output: Any) -> None:
        output.write("one.txt", b"whole")
        with output.file("two.txt") as path:
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("curate.export.layouts.found.OURS", {"folders": full})
    stopped = curate("export-for", "folders", "--run", ranked, "--output", tmp_path / "out")
    assert stopped.code == 1
    assert "No space left on device; make room" in stopped.err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["one.txt", "unfinished.json"]


def test_an_output_with_anything_else_is_left_alone(curate: Curate, ranked: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("the user's own")
    stopped = curate("export-for", "folders", "--run", ranked, "--output", out)
    assert f"{out} holds other files (mine.txt); choose a folder that is empty or not there yet" in stopped.err
    (out / "mine.txt").unlink()
    export(curate, ranked, "folders", out)
    before = contents(out)
    stopped = curate("export-for", "parquet", "--run", ranked, "--output", out)
    assert stopped.code == 1
    assert f"{out} holds another export; delete it, or choose another --output" in stopped.err
    assert contents(out) == before
    export(curate, ranked, "folders", out)
    assert contents(out) == before


def test_an_image_that_is_not_the_one_that_was_scored_stops_it(
    curate: Curate, ranked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def changed(self: Source, places: Iterable[Location]) -> Iterator[tuple[Location, bytes]]:
        return ((place, b"another") for place in places)

    monkeypatch.setattr(Source, "read_images", changed)
    stopped = curate("export-for", "folders", "--run", ranked, "--output", tmp_path / "out")
    assert stopped.code == 1
    assert "is not the one that was scored; embed again" in stopped.err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["unfinished.json"]


def test_no_pairs_still_load(tmp_path: Path) -> None:
    write_pickapic(iter(()), Output(Destination(str(tmp_path / "out"), tmp_path), 0, "jpg"))
    table = pq.read_table(tmp_path / "out/data/train-00000-of-00001.parquet")
    assert (table.num_rows, table.column_names[:2]) == (0, ["jpg_0", "caption"])


def test_a_caption_is_one_line() -> None:
    sample = Sample("000000001", "a red circle\r\nbelow № 1", (), (None, None), {})
    assert sample.caption == "a red circle below № 1"


def test_a_layout_of_another_package_by_its_entry_point(
    ranked: Path, expected: Expected, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "mine-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\ncaptions = mine_layouts:write\n")
    (tmp_path / "mine_layouts.py").write_text(
        "def write(samples, output):\n"
        "    output.write('captions.txt', '\\n'.join(sample.caption for sample in samples).encode())\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    report = export_for(open_run(ranked), LayoutOptions("captions", output=str(tmp_path / "out")))
    assert report["pairs"] == PAIRS
    written = (tmp_path / "out/captions.txt").read_text("utf-8")
    assert written == "\n".join(prompt for prompt, _, _ in expected)


def test_an_unknown_layout_names_one_that_is_like_it(curate: Curate, ranked: Path) -> None:
    stopped = curate("export-for", "folder", "--run", ranked)
    assert stopped.code == 2
    assert stopped.err == "curate: export-for folder: there is no such layout; did you mean 'folders'?\n"
