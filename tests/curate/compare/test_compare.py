"""`curate compare` over embedded runs: reports, forms, refusals. The numbers are worked in test_comparison.py."""

import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import tomli_w

from tests.curate.builders import MODELS, Outcome, pair_row, write_pairs

Curate = Callable[..., Outcome]


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
    assert done.out.startswith("Against beta, by clip and hpsv2: alpha ")
    assert "\n8 pairs over 8 prompts\n" in done.out
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
    assert report["verdicts"][0]["raw_win_rate"] == pytest.approx(scores[0]["rate"])
    page = (run / "compare.html").read_text()
    data = json.loads(re.search(r'id="data">(.*?)</script>', page)[1])  # type: ignore[index]
    assert {one["text"] for one in data["prompts"]} == {f"prompt <{i}> & more" for i in range(8)}
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)
    assert "http" not in re.sub(r"base64,[A-Za-z0-9+/=]+", "", page).replace('http-equiv="Content', "")


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


def test_an_image_under_two_prompts_is_shown_under_both(curate: Curate, tmp_path: Path) -> None:
    rows = [pair_row(0, caption="one"), pair_row(0, caption="two", ranking_id=1)]
    run = embedded(curate, tmp_path, rows)
    report = json.loads(curate("compare", "--run", run, "--json").out)
    assert (report["prompts"], report["pictures"], report["pictures_wanted"]) == (2, 4, 4)
    data = json.loads(re.search(r'id="data">(.*?)</script>', (run / "compare.html").read_text())[1])  # type: ignore[index]
    assert all(cell[0] >= 0 for prompt in data["prompts"] for row in prompt["rows"] for cell in row)


def test_mixed_sides_are_oriented_by_model(curate: Curate, tmp_path: Path) -> None:
    rows = [pair_row(0), pair_row(2, model_0="beta", model_1="alpha")]
    run = embedded(curate, tmp_path, rows)
    report = json.loads(curate("compare", "--run", run, "--model", "alpha", "--json").out)
    assert report["pairs"] == 2


def test_more_than_two_models(curate: Curate, tmp_path: Path) -> None:
    rows = [pair_row(4 * i, caption=f"prompt {i}") for i in range(5)]
    third = [{"image_1_uid": f"c{i}", "jpg_1": pair_row(900 + i)["jpg_0"], "model_1": "gamma"} for i in range(5)]
    rows += [row | other for row, other in zip(rows, third, strict=True)]
    run = embedded(curate, tmp_path, rows)
    done = curate("compare", "--run", run)
    assert done.code == 0, done.err
    report = json.loads((run / "compare.json").read_text())
    assert (report["models"], report["pairs"]) == (["alpha", "beta", "gamma"], 10)
    assert {(v["model"], v["against"]) for v in report["verdicts"]} == {("alpha", "beta"), ("alpha", "gamma")}
    assert all(item["strength"] is not None for item in report["standings"])
    assert done.out.startswith("Against gamma, by clip and hpsv2: alpha ")
    some = json.loads(curate("compare", "--run", run, "--model", "gamma", "--against", "alpha", "--json").out)
    assert (some["models"], some["pairs"]) == (["gamma", "alpha"], 5)
    stopped = curate("compare", "--run", run, "--model", "gama", "--against", "alpha")
    assert stopped.err == f"curate: no picture in {run} was drawn by 'gama'; did you mean 'gamma'?\n"
    stopped = curate("compare", "--run", run, "--model", "gamma", "--against", "beta")
    assert stopped.err == (
        f"curate: no pair of 'gamma' and 'beta' was scored on both sides in {run}; pictures of other prompts or seeds "
        "make no pair; see also `dropped`\n"
    )


def test_one_model_only(curate: Curate, tmp_path: Path) -> None:
    run = embedded(curate, tmp_path, [pair_row(0, model_1="alpha")])
    stopped = curate("compare", "--run", run)
    assert (stopped.code, stopped.out) == (1, "")
    assert stopped.err == (
        f"curate: every picture in {run} was drawn by 'alpha': there is nothing to compare it with\n"
    )


def test_the_same_picture_from_both_models_is_a_tie_and_said_so(curate: Curate, tmp_path: Path) -> None:
    run = embedded(curate, tmp_path, [pair_row(2 * i, jpg_1=pair_row(2 * i)["jpg_0"]) for i in range(3)])
    done = curate("compare", "--run", run)
    assert "note: alpha and beta score the same on every picture: their 50 % is made of 3 ties\n" in done.out
    report = json.loads((run / "compare.json").read_text())
    assert {(v["win_rate"], v["ties"], v["sign_p_value"]) for v in report["verdicts"]} == {(0.5, 3, 1.0)}


def test_csv_and_latex(curate: Curate, tmp_path: Path) -> None:
    run = embedded(curate, tmp_path, [pair_row(2 * i, model_0="50% of_a") for i in range(4)])
    done = curate("compare", "--run", run, "--csv", tmp_path / "a.csv", "--latex", tmp_path / "a.tex")
    assert done.code == 0, done.err
    report = json.loads((run / "compare.json").read_text())
    rows = list(csv.DictReader(io.StringIO((tmp_path / "a.csv").read_text())))
    assert [(row["scorer"], float(row["win_rate"])) for row in rows] == [
        (v["scorer"], v["win_rate"]) for v in report["verdicts"]
    ]
    latex = (tmp_path / "a.tex").read_text()
    assert r"50\% of\_a & " in latex
    assert latex.count(r"\\") == 4
    columns = latex.partition(r"\begin{tabular}{")[2].partition("}")[0]
    assert all(line.count(" & ") == len(columns) - 1 for line in latex.splitlines() if line.startswith(("50", "beta")))


def sampled(curate: Curate, tmp_path: Path, models: list[dict[str, object]], lost: tuple[int, ...] = ()) -> Path:
    """An embedded run of what `train sample` writes: two prompts of two categories, two pictures of each model."""
    from schemas.tables import SAMPLED_PAIRS

    folder, rows = tmp_path / "sampled", []
    folder.mkdir()
    for number in range(4):
        for side in (0, 1):
            row = pair_row(10 * number + side)
            (folder / f"{number}-{side}.jpg").write_bytes(row["jpg_0"])
        paths: dict[str, str | None] = {f"image_{side}_path": f"{number}-{side}.jpg" for side in (0, 1)}
        paths |= {"image_0_path": None} if number in lost else {}
        words = {"prompt": f"prompt {number // 2}", "category": "xy"[number // 2], "seed": number}
        uids = {f"image_{side}_uid": f"{number}-{side}" for side in (0, 1)}
        rows.append(words | uids | paths | {"image_0_model": "tuned", "image_1_model": "base"})
    import pyarrow as pa

    pq.write_table(pa.Table.from_pylist(rows, schema=SAMPLED_PAIRS), folder / "pairs.parquet")
    columns = {name: name for name in SAMPLED_PAIRS.names if name != "seed"}
    document = {
        "name": "sampled",
        "splits": {"sampled": {"files": ["pairs.parquet"]}},
        "columns": columns,
        "sampled": {"seed": 0, "models": models},
    }
    (folder / "manifest.toml").write_text(tomli_w.dumps(document))
    run = tmp_path / "run"
    options = ("--models", MODELS, "--scorers", "clip,hpsv2", "--run", run)
    done = curate("embed", "--manifest", folder / "manifest.toml", *options)
    assert done.code == 0, done.err
    return run


MODELS_DRAWN: list[dict[str, object]] = [
    {"name": "tuned", "source": "run/model", "base": "demo", "chosen_by": ["clip"]},
    {"name": "base", "source": "demo", "chosen_by": []},
]


def test_the_scorer_that_chose_the_training_pairs_is_marked(curate: Curate, tmp_path: Path) -> None:
    run = sampled(curate, tmp_path, MODELS_DRAWN)
    done = curate("compare", "--run", run)
    assert done.code == 0, done.err
    report = json.loads((run / "compare.json").read_text())
    assert (report["model"], report["against"]) == ("tuned", "base")
    assert [(v["scorer"], v["in_sample"]) for v in report["verdicts"]] == [("hpsv2", False), ("clip", True)]
    assert report["headline"].startswith("Against base, by hpsv2: tuned ")
    hpsv2, clip = done.out.splitlines()[3:5]
    assert clip.endswith("  in-sample scorer")
    assert not hpsv2.endswith("scorer")
    assert "note: in-sample scorer: clip chose the pairs that tuned was trained on" in done.out
    assert "chose the training pairs" in (run / "compare.html").read_text()
    assert {v["category"] for v in report["categories"]} == {"x", "y"}
    tower = next(item for item in report["spreads"] if item["tower"] == "clip" and item["model"] == "tuned")
    assert tower["diversity"] > 0
    assert tower["from_reference"] > 0


def test_black_pictures_are_counted_by_name_and_not_compared(curate: Curate, tmp_path: Path) -> None:
    models = [MODELS_DRAWN[0] | {"black": 1}, MODELS_DRAWN[1]]
    run = sampled(curate, tmp_path, models, lost=(1,))
    done = curate("compare", "--run", run)
    assert done.code == 0, done.err
    assert "note: tuned: 1 pictures left out: 1 black\n" in done.out
    report = json.loads((run / "compare.json").read_text())
    assert (report["pairs"], report["faults"]) == (3, {"tuned": {"black": 1}})


def test_the_tie_band_can_be_set(curate: Curate, tmp_path: Path) -> None:
    """So wide that nothing wins, and so narrow that everything counts."""
    run = sampled(curate, tmp_path, MODELS_DRAWN)
    wide, none = (
        json.loads(curate("compare", "--run", run, "--tie-band", band, "--json").out) for band in ("1000", "0")
    )
    assert {(v["ties"], v["win_rate"]) for v in wide["verdicts"]} == {(4, 0.5)}
    assert [v["raw_wins"] for v in wide["verdicts"]] == [v["wins"] for v in none["verdicts"]]
    assert {item["tie_band"] for item in none["noise"]} == {0}


def test_other_weights_or_seeds_are_another_run(curate: Curate, tmp_path: Path) -> None:
    """A set drawn again in the same folder is not taken for the old one."""
    run = sampled(curate, tmp_path, MODELS_DRAWN)
    manifest = tmp_path / "sampled" / "manifest.toml"
    manifest.write_text(manifest.read_text().replace("seed = 0", "seed = 1"))
    options = ("--models", MODELS, "--scorers", "clip,hpsv2", "--run", run)
    stopped = curate("embed", "--manifest", manifest, *options)
    assert stopped.code == 1
    assert "was made under other settings: manifest.sampled.seed was 0, now 1" in stopped.err


def test_pictures_without_models_say_what_to_map(curate: Curate, tmp_path: Path) -> None:
    run = embedded(curate, tmp_path, [pair_row(0, model_0=None, model_1=None)])
    stopped = curate("compare", "--run", run)
    assert stopped.err == (
        f"curate: the pairs of {run} do not say which model drew each image; map image_0_model and image_1_model\n"
    )
