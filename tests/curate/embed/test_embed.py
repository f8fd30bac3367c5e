"""The tables of a run: what they hold, that each image and prompt is worked once, that a killed run ends the same."""

import hashlib
import json
import shutil
import weakref
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from curate.embed import stage
from curate.embed.decode import decoders
from curate.embed.device import pipeline, worker
from curate.embed.engines.processes import Serial
from curate.embed.options import ComputeOptions
from curate.embed.planning.plan import Plan, make_plan
from curate.embed.stage import embed_source
from curate.errors import RunError, SourceError, StoppedError, UsageError
from curate.models.model_set import load_model_set
from curate.models.scoring import Scoring, load_scoring
from curate.sources.images import decode
from curate.sources.manifest import load_manifest
from curate.sources.opening import open_source
from curate.storage.run import Run, RunFiles
from schemas import tables
from tests.curate.builders import CONTROL_UID, MODELS, pair_row, picture_bytes, write_pairs

OPTIONS = ComputeOptions("cpu", "fp32", batch_images=4, part_images=6, decode_threads=2)


@pytest.fixture(scope="session")
def scoring() -> Scoring:
    models = load_model_set(MODELS)
    return load_scoring(models, models.choose(["clip", "pickscore", "aesthetic"]), "cpu", "fp32")


def embed_files(
    root: Path, files: Path | list[Path], scoring: Scoring, options: ComputeOptions = OPTIONS
) -> dict[str, Any]:
    paths = [str(path) for path in (files if isinstance(files, list) else [files])]
    return embed_source(Run(root), open_source(load_manifest("pickapic_v2"), None, paths), scoring, options)


def tables_of(root: Path) -> dict[str, pa.Table]:
    names = ("images", "prompts", "scores", "dropped")
    return {"pairs": pq.read_table(root / "pairs.parquet")} | {name: pq.read_table(root / name) for name in names}


def test_counts_and_tables(tmp_path: Path, source_file: Path, scoring: Scoring) -> None:
    summary = embed_files(tmp_path / "run", source_file, scoring)
    found = tables_of(tmp_path / "run")
    assert summary["source_rows"] == summary["pairs"] == found["pairs"].num_rows == 20
    assert summary["images"] == summary["scored_images"] == found["images"].num_rows == 21
    assert summary["prompts"] == found["prompts"].num_rows == 5
    # 20 pairs of neighbours: five groups of four pairs over five images, each under its own prompt
    assert summary["scored_prompt_images"] == found["scores"].num_rows == 25
    assert found["scores"].schema.names == [
        "prompt_id",
        "image_uid",
        "clip_score",
        "pickscore_score",
        "aesthetic_score",
    ]
    assert found["images"].schema.field("clip_embedding").type.value_type == pa.float16()
    assert found["pairs"].schema.equals(tables.PAIRS)


def test_image_rows_say_what_the_bytes_are(tmp_path: Path, scoring: Scoring) -> None:
    data = picture_bytes(7, (80, 48), "PNG")
    file = write_pairs(tmp_path / "s.parquet", [pair_row(0, jpg_0=data, image_0_uid="a-png")])
    embed_files(tmp_path / "run", file, scoring)
    images = {row["image_uid"]: row for row in pq.read_table(tmp_path / "run" / "images").to_pylist()}
    assert images["a-png"]["format"] == "PNG"
    assert (images["a-png"]["width"], images["a-png"]["height"]) == (80, 48)
    assert images["a-png"]["sha256"] == hashlib.sha256(data).hexdigest()
    assert (images["a-png"]["source_row"], images["a-png"]["source_side"]) == (0, 0)


def test_each_image_is_decoded_once_and_each_prompt_and_image_embedded_once_per_tower(
    tmp_path: Path, source_file: Path, scoring: Scoring, monkeypatch: pytest.MonkeyPatch
) -> None:
    work: Counter[str] = Counter()

    def counting_decode(data: bytes | None, **options: Any) -> Any:
        work["decoded"] += 1
        return decode(data, **options)

    monkeypatch.setattr(decoders, "decode", counting_decode)
    for name, tower in scoring.towers.items():

        def images(pixels: Any, name: str = name, inner: Any = tower.embed_images) -> Any:
            work[f"{name} images"] += len(pixels)
            return inner(pixels)

        def prompts(texts: list[str], name: str = name, inner: Any = tower.embed_prompts) -> Any:
            work[f"{name} prompts"] += len(texts)
            return inner(texts)

        monkeypatch.setattr(tower, "embed_images", images)
        monkeypatch.setattr(tower, "embed_prompts", prompts)
    embed_files(tmp_path / "run", source_file, scoring)
    assert work == {
        "decoded": 21,
        "clip images": 21,
        "clip prompts": 5,
        "pickscore images": 21,
        "pickscore prompts": 5,
    }


def test_towers_with_one_preprocessing_share_its_result(scoring: Scoring, monkeypatch: pytest.MonkeyPatch) -> None:
    clip, pickscore = scoring.towers["clip"], scoring.towers["pickscore"]
    monkeypatch.setattr(pickscore, "preprocessing", clip.preprocessing)
    assert list(scoring.preprocess(Image.new("RGB", (64, 64)))) == [clip.preprocessing]


def test_a_killed_run_goes_on_and_ends_the_same(
    tmp_path: Path, source_file: Path, scoring: Scoring, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed_files(tmp_path / "whole", source_file, scoring)
    write = pipeline.write_part
    written: list[str] = []

    def dying_write(run: Run, name: str, files: Any) -> None:
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(name)
        write(run, name, files)

    for module in (worker, pipeline):
        monkeypatch.setattr(module, "write_part", dying_write)
    with pytest.raises(StoppedError):
        embed_files(tmp_path / "killed", source_file, scoring)
    with pytest.raises(RunError, match="has not finished"):
        Run(tmp_path / "killed").summary()
    for module in (worker, pipeline):
        monkeypatch.setattr(module, "write_part", write)
    summary = embed_files(tmp_path / "killed", source_file, scoring)
    assert written == ["prompts-00000", "part-00000", "part-00001"]
    assert (summary["parts_computed"], summary["parts"]) == (2, 4)
    for name, table in tables_of(tmp_path / "whole").items():
        assert tables_of(tmp_path / "killed")[name].equals(table), name


@pytest.mark.parametrize("table", ["images", "scores", "dropped"])
def test_a_damaged_part_is_named_and_computed_again(
    tmp_path: Path, source_file: Path, scoring: Scoring, table: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its size is right, only its bytes are not."""
    root = tmp_path / "run"
    embed_files(root, source_file, scoring)
    before = tables_of(root)
    path = root / table / "part-00002.parquet"
    path.write_bytes(path.read_bytes()[:-7] + b"damaged")
    capsys.readouterr()
    assert embed_files(root, source_file, scoring)["parts_computed"] == 1
    named = f"{root}: part-00002 is damaged, not as its marker parts/part-00002.json says; it is computed again"
    assert [line for line in capsys.readouterr().err.splitlines() if " is damaged" in line] == [named]
    for name, found in tables_of(root).items():
        assert found.equals(before[name]), name


def test_prompts_of_many_parts_are_read_into_their_places(
    tmp_path: Path, source_file: Path, scoring: Scoring, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "PROMPTS_PER_PART", 2)
    embed_files(tmp_path, source_file, scoring)
    names = sorted(path.stem for path in (tmp_path / "prompts").iterdir())
    assert len(names) == 3
    table = tables_of(tmp_path)["prompts"]
    read = worker._embedded(Run(tmp_path), names, table.num_rows, scoring)
    assert read.texts == table["prompt"].to_pylist()
    assert list(read.rows.items()) == [(key, row) for row, key in enumerate(table["prompt_id"].to_pylist())]
    for tower, matrix in read.embeddings.items():
        assert np.array_equal(matrix.numpy(), np.array(table[tables.embedding_column(tower)].to_pylist(), np.float32))


def test_the_plans_tables_are_let_go_once_they_are_written(
    tmp_path: Path, source_file: Path, scoring: Scoring, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[weakref.ref[Plan]] = []

    def noted(*arguments: Any) -> Plan:
        plan = make_plan(*arguments)
        made.append(weakref.ref(plan))
        return plan

    class Looking(Serial):
        def run(self, *arguments: Any) -> None:
            assert made[0]() is None
            super().run(*arguments)

    monkeypatch.setattr(stage, "make_plan", noted)
    opened = open_source(load_manifest("pickapic_v2"), None, [str(source_file)])
    summary = embed_source(Run(tmp_path), opened, scoring, OPTIONS, Looking("cpu"))
    assert summary["pairs"] == pq.read_metadata(tmp_path / "pairs.parquet").num_rows == 20


def test_damaged_prompts_are_named_and_embedded_again(
    tmp_path: Path, source_file: Path, scoring: Scoring, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "run"
    embed_files(root, source_file, scoring)
    before = tables_of(root)
    path = root / "prompts" / "prompts-00000.parquet"
    path.write_bytes(path.read_bytes()[:-7] + b"damaged")
    capsys.readouterr()
    assert embed_files(root, source_file, scoring)["parts_computed"] == 0
    assert f"{root}: prompts-00000 is damaged" in capsys.readouterr().err
    assert tables_of(root)["prompts"].equals(before["prompts"])


def test_a_part_that_another_process_has_done_meanwhile_is_passed_over(
    tmp_path: Path, source_file: Path, scoring: Scoring, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ranges overlap: what was missing at the start may be there when its turn comes."""
    embed_files(tmp_path / "other", source_file, scoring)
    for name in ("images", "scores", "dropped", "parts"):
        (tmp_path / "run" / name).mkdir(parents=True)
    computed: list[str] = []
    monkeypatch.setattr(pipeline, "write_part", lambda run, name, files: computed.append(name))

    def meanwhile(run: RunFiles) -> None:
        """The last thing before parts are taken: now the other process has done them all."""
        for path in (tmp_path / "other").glob("*/part-*"):
            shutil.copy(path, tmp_path / "run" / path.relative_to(tmp_path / "other"))

    monkeypatch.setattr(RunFiles, "mark_unfinished", meanwhile)
    assert embed_files(tmp_path / "run", source_file, scoring)["scored_images"] == 21
    assert computed == []


def test_a_run_that_lost_a_part_is_unfinished_until_it_is_computed(
    tmp_path: Path, source_file: Path, scoring: Scoring, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed again meanwhile, it must not be ranked as if every part were there."""
    root = tmp_path / "run"
    embed_files(root, source_file, scoring)
    (root / "scores" / "part-00001.parquet").unlink()
    monkeypatch.setattr(worker, "compute_parts", killed)
    with pytest.raises(StoppedError):
        embed_files(root, source_file, scoring)
    with pytest.raises(RunError, match="has not finished"):
        Run(root).summary()


def killed(*_: Any) -> None:
    raise KeyboardInterrupt


def test_parts_of_a_range_leave_the_others(tmp_path: Path, source_file: Path, scoring: Scoring) -> None:
    """Four parts: 2 and 3 first, then 1 and 2, of which 2 is there, then all; who comes last finishes the run."""
    root = tmp_path / "run"
    embed_files(tmp_path / "whole", source_file, scoring)

    def some(part_range: range) -> dict[str, Any]:
        opened = open_source(load_manifest("pickapic_v2"), None, [str(source_file)])
        return embed_source(Run(root), opened, scoring, OPTIONS, part_range=part_range)

    left = {"parts": 4, "parts_computed": 2, "parts_left": 2, "first_left": "part-00000"}
    assert some(range(2, 9)) == left
    with pytest.raises(RunError, match="has not finished"):
        Run(root).summary()
    assert some(range(1, 3)) == left | {"parts_computed": 1, "parts_left": 1}
    assert some(range(0, 1))["images"] == 21
    assert Run(root).summary()["parts_left"] == 0
    for name, table in tables_of(tmp_path / "whole").items():
        assert tables_of(root)[name].equals(table), name
    with pytest.raises(UsageError) as caught:
        some(range(4, 5))
    assert str(caught.value) == ("--part-range 4:5: there are 4 parts, from 0 on; `curate embed --dry-run` counts them")


def test_ranges_share_a_run_and_a_plain_process_does_not(tmp_path: Path, source_file: Path, scoring: Scoring) -> None:
    root = tmp_path / "run"
    opened = open_source(load_manifest("pickapic_v2"), None, [str(source_file)])
    with Run(root).locked(shared=True):
        assert embed_source(Run(root), opened, scoring, OPTIONS, part_range=range(0, 2))["parts_computed"] == 2
        with pytest.raises(RunError, match="another process is writing to"):
            embed_source(Run(root), opened, scoring, OPTIONS)
    with Run(root).locked(), pytest.raises(RunError, match="another process is writing to"):
        embed_source(Run(root), opened, scoring, OPTIONS, part_range=range(0, 2))


def test_a_finished_run_computes_nothing_again(tmp_path: Path, source_file: Path, scoring: Scoring) -> None:
    first = embed_files(tmp_path / "run", source_file, scoring)
    second = embed_files(tmp_path / "run", source_file, scoring)
    assert (first["parts_computed"], second["parts_computed"]) == (4, 0)
    assert first | {"parts_computed": 0} == second  # also how fast it was computed stays


def test_other_settings_are_refused(tmp_path: Path, source_file: Path, scoring: Scoring) -> None:
    root = tmp_path / "run"
    embed_files(root, source_file, scoring)
    with pytest.raises(RunError) as raised:
        embed_files(root, source_file, scoring, ComputeOptions("cpu", "fp32", part_images=7))
    assert str(raised.value) == (
        f"{root} was made under other settings: part_images was 6, now 7; use another --run, or delete {root}"
    )


def test_a_source_that_changed_is_noticed(tmp_path: Path, source_file: Path, scoring: Scoring) -> None:
    embed_files(tmp_path / "run", source_file, scoring)
    write_pairs(source_file, (pair_row(i) for i in range(30)))
    with pytest.raises(RunError, match=r"other settings: files\..*train-0\.parquet\.size was \d+, now \d+"):
        embed_files(tmp_path / "run", source_file, scoring)


def test_broken_images_are_set_aside_with_their_reason(tmp_path: Path, scoring: Scoring) -> None:
    rows = [pair_row(i) for i in range(4)]
    rows[0]["jpg_0"] = b""
    rows[3]["jpg_1"] = picture_bytes(4)[:200]
    summary = embed_files(tmp_path / "run", write_pairs(tmp_path / "s.parquet", rows), scoring)
    assert summary["dropped_images"] == {"image_empty": 1, "image_unreadable": 1}
    assert summary["images"] == 5
    assert summary["scored_images"] == 3
    dropped = pq.read_table(tmp_path / "run" / "dropped").to_pylist()
    assert {(row["image_uid"], row["reason"]) for row in dropped} == {
        ("image-0", "image_empty"),
        ("image-4", "image_unreadable"),
    }


def test_pairs_set_aside_are_not_scored(tmp_path: Path, scoring: Scoring) -> None:
    rows = [pair_row(0), pair_row(1, image_1_uid=CONTROL_UID), pair_row(4, has_label=False), pair_row(8, label_0=0.7)]
    summary = embed_files(tmp_path / "run", write_pairs(tmp_path / "s.parquet", rows), scoring)
    assert summary["dropped_pairs"] == {"bad_label": 1, "control_image": 1, "unlabelled": 1}
    assert (summary["pairs"], summary["images"]) == (1, 2)


def test_all_images_broken_is_an_error_and_the_table_says_why(tmp_path: Path, scoring: Scoring) -> None:
    rows = [pair_row(0, jpg_0=b"no", jpg_1=None)]
    with pytest.raises(SourceError, match="not one of the 1 pairs has both of its pictures: 1 image_missing, 1"):
        embed_files(tmp_path / "run", write_pairs(tmp_path / "s.parquet", rows), scoring)
    reasons = [row["reason"] for row in tables_of(tmp_path / "run")["dropped"].to_pylist()]
    assert sorted(reasons) == ["image_missing", "image_unreadable"]


def test_scores_are_taken_before_embeddings_are_rounded(tmp_path: Path, source_file: Path, scoring: Scoring) -> None:
    embed_files(tmp_path / "run", source_file, scoring)
    found = tables_of(tmp_path / "run")
    row = found["scores"].to_pylist()[0]
    prompt = next(r for r in found["prompts"].to_pylist() if r["prompt_id"] == row["prompt_id"])
    image = next(r for r in found["images"].to_pylist() if r["image_uid"] == row["image_uid"])
    rounded = float(
        np.dot(np.array(prompt["clip_embedding"], np.float32), np.array(image["clip_embedding"], np.float32))
    )
    assert row["clip_score"] == pytest.approx(rounded, abs=1e-3)


def test_run_toml_states_models_and_versions(tmp_path: Path, source_file: Path, scoring: Scoring) -> None:
    embed_files(tmp_path / "run", source_file, scoring)
    stated = Run(tmp_path / "run").settings()
    assert len(stated["settings"]["models"]["towers"]["clip"]["sha256"]) == 64
    assert len(stated["settings"]["models"]["scorers"]["aesthetic"]["sha256"]) == 64
    assert set(stated["info"]["packages"]) == {"torch", "open_clip_torch", "transformers", "pillow", "pyarrow"}
    assert json.loads((tmp_path / "run" / "embed.json").read_text())["pairs"] == 20


def test_a_second_process_is_kept_out(tmp_path: Path, source_file: Path, scoring: Scoring) -> None:
    root = tmp_path / "run"
    with (
        Run(root).locked(),
        pytest.raises(RunError, match=r"another process is writing to .*run; wait for it, or use another --run"),
    ):
        embed_files(root, source_file, scoring)
    assert embed_files(root, source_file, scoring)["pairs"] == 20


def test_other_settings_are_refused_before_weights_are_loaded(
    tmp_path: Path, source_file: Path, scoring: Scoring
) -> None:
    root = tmp_path / "run"
    embed_files(root, source_file, scoring)
    source = open_source(load_manifest("pickapic_v2"), None, [str(source_file)])
    assert Run(root).refuse_other(stage.source_settings(source, OPTIONS))
    with pytest.raises(RunError, match="precision was 'fp32', now 'bf16'"):
        Run(root).refuse_other(stage.source_settings(source, ComputeOptions("cpu", "bf16", part_images=6)))
