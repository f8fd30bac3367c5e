"""The report's words and numbers, and the one file that holds them."""

import base64
import hashlib
import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, strategies as st
from PIL import Image

from curate.rank.metrics.metric import load_metric
from curate.rank.psi import Psi
from curate.report import stage as report_stage
from curate.report.figures import figures, wilson_interval
from curate.report.gallery import count_steps, metric_purpose, open_ranking, section_ranks, standing, workings
from curate.storage.run import Run
from tests.curate.builders import MODELS, Outcome, pair_row, write_pairs
from tests.curate.runs import make_run, ranked

Curate = Callable[..., Outcome]
PSI = {"psi_preferred": 0.9, "psi_rejected": 0.25}


@given(pairs=st.integers(1, 400), cut=st.integers(1, 400), wanted=st.integers(0, 450))
def test_sections_never_overlap_and_hold_what_is_asked(pairs: int, cut: int, wanted: int) -> None:
    cut = min(cut, pairs)
    sections = section_ranks(pairs, cut, wanted)
    ranks = [rank for span in sections.values() for rank in span]
    assert len(ranks) == len(set(ranks)) == min(wanted, pairs)
    assert all(1 <= rank <= pairs for rank in ranks)
    assert list(sections["top"]) == list(range(1, len(sections["top"]) + 1))
    if wanted >= 12 and pairs >= 12:
        assert 1 in sections["top"]
        assert not sections["bottom"] or pairs in sections["bottom"]
        if cut < pairs:
            assert cut + 1 in {*sections["top"], *sections["borderline"]}


def test_sections_of_the_usual_size() -> None:
    assert section_ranks(5230, 279, 300) == {
        "top": range(1, 101), "borderline": range(230, 330), "bottom": range(5131, 5231)
    }  # fmt: skip
    assert section_ranks(1000, 20, 300)["top"] == range(1, 11)  # few are selected: the borderline has the others
    assert section_ranks(1000, 1000, 300) == {
        "top": range(1, 101), "borderline": range(101, 101), "bottom": range(801, 1001)
    }  # fmt: skip


def test_counts_add_up() -> None:
    summary = {"source_rows": 12, "pairs": 10, "dropped_pairs": {"control_image": 2}}
    settings = {
        "base_pairs": 8, "selected_pairs": 3, "dropped_pairs": {"tie": 1, "where": 1}, "passed_over": {"diversity": 2}
    }  # fmt: skip
    steps = count_steps(summary, settings)
    assert [step["sum"] for step in steps] == [
        "rows    12 = 10 pairs + 2 control_image",
        "pairs   10 = 8 ranked + 1 tie + 1 where",
        "ranked  8 = 3 selected + 2 diversity + 3 below_the_cut",
    ]
    assert all(sum(step["parts"].values()) == step["total"] for step in steps)
    assert steps[2]["reasons"] == {"diversity": "its prompt is too like those chosen"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("qsd", "0.9 × (1 − 0.25)"),
        ("margin", "0.9 − 0.25"),
        ("ratio", "coalesce(0.9 / nullif(0.9 + 0.25, 0), 0.5)"),
        ("winner", None),  # the number itself
        ("mpcf", None),  # a case
        ("vote", None),  # one term a scorer
        ("random", None),  # of the pair's id
        ("calibrated", None),  # from another view
    ],
)
def test_workings_of_the_shipped_metrics(name: str, expected: str | None) -> None:
    sql = load_metric(name).text
    assert workings(sql, {"seed": 0}, PSI | {"pair_id": "abc"}) == expected
    assert metric_purpose(sql)[-1] not in "."


def test_workings_of_a_metric_with_parameters() -> None:
    sql = "-- mine\nselect pair_id,\n  clip_margin - $least as quality\nfrom pair_scores\n"
    assert workings(sql, {"least": 0.5}, {"clip_margin": 1.25}) == "1.25 − 0.5"
    assert workings(sql, {}, {"clip_margin": 1.25}) is None
    assert workings(sql, {"least": 0.5}, {"clip_margin": None}) is None


def test_standing() -> None:
    row: dict[str, Any] = {"selected": False, "passed_over": None}
    assert standing(row | {"selected": True}) == "selected"
    assert standing(row | {"passed_over": "max_per_prompt"}) == "passed over: max per prompt"
    assert standing(row) == "below the cut"


def test_wilson_interval_against_known_values() -> None:
    assert wilson_interval(0.5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert wilson_interval(1.0, 4) == pytest.approx((0.5101, 1.0), abs=1e-4)


def test_figures_say_what_the_tables_hold(ranked_run: Path) -> None:
    ranking = open_ranking(Run(ranked_run), "default")
    steps = count_steps(Run(ranked_run).summary(), ranking.settings)
    drawn = {item.key: item for item in figures(ranking, steps)}
    assert list(drawn) == [
        "counts", "quality", "score-aesthetic", "margin-aesthetic", "score-clip", "margin-clip", "score-pickscore",
        "margin-pickscore", "agreement", "calibration", "correlation-score", "correlation-margin", "prompts",
    ]  # fmt: skip
    assert sum(row["selected"] for row in drawn["quality"].rows) == 12
    assert sum(row["all ranked"] for row in drawn["margin-clip"].rows) == 60
    assert sum(row["all pictures"] for row in drawn["score-clip"].rows) == 120
    agreed = ranking.connection.execute("select avg((clip_margin > 0)::int) from report_ranking").fetchall()[0][0]
    assert f"in {agreed:.1%} of all ranked pairs" in drawn["margin-clip"].summary
    assert sum(row["pairs"] for row in drawn["calibration"].rows) == 60
    assert drawn["prompts"].summary.startswith("Shown are ")


def test_charts_mark_the_scorers_that_chose_the_pairs(ranked_run: Path) -> None:
    ranking = open_ranking(Run(ranked_run), "default")
    ranking.settings["chosen_by"] = ["clip"]
    drawn = {item.key: item for item in figures(ranking, count_steps(Run(ranked_run).summary(), ranking.settings))}
    assert drawn["score-clip"].title == "clip †: score"
    assert "† had a say in which pairs are selected" in drawn["margin-clip"].caption
    assert drawn["margin-pickscore"].title == "pickscore: margin"
    assert "†" not in drawn["margin-pickscore"].caption
    series = {row["scorer"] for row in drawn["agreement"].chart.to_dict()["layer"][1]["data"]["values"]}
    assert series == {"aesthetic", "clip †", "pickscore"}


def page_of(curate: Curate, run: Path, *arguments: object) -> tuple[dict[str, Any], str]:
    done = curate("report", "--run", run, "--json", *arguments)
    assert done.code == 0, done.err
    written = json.loads(done.out)
    return written, Path(written["page"]).read_text()


def block(page: str, name: str) -> Any:
    """The JSON inside one script element of the page."""
    return json.loads(page.partition(f'<script type="application/json" id="{name}">')[2].partition("</script>")[0])


def test_the_page_stands_alone(curate: Curate, ranked_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(ranked_run, tmp_path / "run"))
    written, page = page_of(curate, run)
    assert written["page"] == str(run / "report.html")
    assert written["sums"] == [
        "rows    62 = 61 pairs + 1 unlabelled", "pairs   61 = 60 ranked + 1 tie",
        "ranked  60 = 12 selected + 48 below_the_cut",
    ]  # fmt: skip
    assert (written["gallery_pairs"], written["gallery_pairs_wanted"], written["pictures_missing"]) == (60, 60, 0)
    assert page.count("<article") == 60
    markup = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert not re.search(r"(src|href)=\"(?!data:|#)", markup)
    assert "url(" not in markup
    assert "<script>document.title" not in page
    assert page.count("&lt;/script&gt;&lt;script&gt;document.title") == 5  # four cards, one row of the map's table
    pictures = block(page, "pictures")
    assert set(re.findall(r'data-uid="([^"]+)"', page)) == set(pictures)
    assert len(pictures) == written["pictures"] == 61
    assert all(uri.startswith("data:image/webp;base64,UklGR") for uri in pictures.values())


def test_the_policy_allows_the_page_s_own_scripts_only(curate: Curate, ranked_run: Path, tmp_path: Path) -> None:
    _, page = page_of(curate, ranked_run, "--page", tmp_path / "page.html")
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page)
    assert policy is not None
    text = policy[1].replace("&#39;", "'")
    assert text.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-eval" not in text
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digests = {base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts}
    assert set(re.findall(r"'sha256-([^']+)'", text)) == digests
    assert len(digests) == 2


def test_the_same_ranking_gives_the_same_page(curate: Curate, ranked_run: Path, tmp_path: Path) -> None:
    _, one = page_of(curate, ranked_run, "--page", tmp_path / "one.html")
    _, two = page_of(curate, ranked_run, "--page", tmp_path / "two.html")
    assert one == two


def test_what_is_printed(curate: Curate, ranked_run: Path, tmp_path: Path) -> None:
    done = curate("report", "--run", ranked_run, "--page", tmp_path / "page.html", "--gallery", "9", "--png")
    assert (done.code, done.err) == (0, "")
    size = (tmp_path / "page.html").stat().st_size
    pictures = len(block((tmp_path / "page.html").read_text(), "pictures"))
    assert 10 <= pictures <= 18
    assert done.out == (
        "counts   rows    62 = 61 pairs + 1 unlabelled\n"
        "counts   pairs   61 = 60 ranked + 1 tie\n"
        "counts   ranked  60 = 12 selected + 48 below_the_cut\n"
        f"gallery  9 pairs, {pictures} pictures\n"
        f"page     {tmp_path}/page.html ({size / 1e6:.1f} MB)\n"
        f"picture  {tmp_path}/page.png\n"
    )
    with Image.open(tmp_path / "page.png") as picture:
        assert picture.format == "PNG"
        assert picture.width > 2000
        assert len(set(picture.convert("RGB").resize((200, 200)).get_flattened_data())) > 100  # no blank sheet


def test_another_ranking_has_its_own_psi_and_page(curate: Curate, ranked_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(ranked_run, tmp_path / "run"))
    ranked = curate("rank", "--run", run, "--name", "narrow", "--psi", "clip", "--top", "4", "--max-per-prompt", "1")
    assert ranked.code == 0, ranked.err
    written, page = page_of(curate, run, "--name", "narrow", "--gallery", "60")
    assert written["page"] == str(run / "report-narrow.html")
    assert "1 clip (percentile)" in page
    assert "per_prompt = 1" in page
    assert written["sums"][2].startswith("ranked  60 = 4 selected + ")
    _, earlier = page_of(curate, run)  # `narrow` was written last, and is not what this page tells of
    card = re.search(r"ψ ([\d.]+) preferred, ([\d.]+) rejected; quality = \1 × \(1 − \2\) = (\d\.\d+)", earlier)
    assert card is not None
    assert float(card[1]) * (1 - float(card[2])) == pytest.approx(float(card[3]), abs=2e-4)


def test_pictures_that_are_gone_leave_their_reason(curate: Curate, ranked_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(ranked_run, tmp_path / "run"))
    settings = (run / "run.toml").read_text()
    (run / "run.toml").write_text(settings.replace("train-0.parquet", "train-9.parquet"))
    for part in (run / "images").glob("*.parquet"):
        move_source(part)
    written, page = page_of(curate, run)
    assert (written["pictures"], written["pictures_missing"], written["gallery_pairs"]) == (0, 61, 60)
    assert "61 of 61 pictures can no longer be read" in " ".join(page.split())
    assert all("is not there" in reason for reason in block(page, "missing").values())
    assert "; 61 pictures can no longer be read\n" in curate("report", "--run", run).out


def move_source(part: Path) -> None:
    """The images table of a run whose source file has another name now."""
    table = pq.read_table(part)
    place = table.schema.get_field_index("source_file")
    names = [name.replace("train-0", "train-9") for name in table["source_file"].to_pylist()]
    pq.write_table(table.set_column(place, table.schema.field(place), [names]), part)


def test_a_page_of_noise_keeps_its_size(
    curate: Curate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """Noise is what compresses least; the limit is lowered so that thirty pictures reach it."""
    rows = [pair_row(2 * i, caption=f"noise {i}", jpg_0=noise(2 * i), jpg_1=noise(2 * i + 1)) for i in range(30)]
    source = write_pairs(tmp_path / "train-0.parquet", rows)
    run = tmp_path / "run"
    embed = ["--manifest", "pickapic_v2", "--models", MODELS, "--source", source, "--device", "cpu"]
    assert curate("embed", *embed, "--run", run).code == 0
    assert curate("rank", "--run", run, "--top", "10").code == 0
    assert report_stage.MOST_BYTES < 30_000_000
    monkeypatch.setattr(report_stage, "MOST_BYTES", 2_500_000)
    written, page = page_of(curate, run)
    shown = written["gallery_pairs"]
    assert 3 <= shown < written["gallery_pairs_wanted"] == 30
    assert 2_300_000 < written["page_bytes"] <= 2_500_000
    assert page.count("<article") == shown
    assert len(block(page, "pictures")) == 2 * shown
    assert "30 were asked for; the others would have made this file larger than 28 MB" in page
    left_out = f"; {30 - shown} of 30 pairs left out, the page would exceed 28 MB\n"
    assert left_out in curate("report", "--run", run).out


def noise(seed: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_poor_run(curate: Curate, tmp_path: Path) -> None:
    """One prompt, no embedding, no picture, a scorer without a single score: each is said, nothing breaks."""
    scores = {"a": (0.1, None), "b": (0.2, None), "c": (0.3, None)}
    run = make_run(tmp_path / "run", [("a", "b", 0), ("c", "b", 0), ("a", "c", None)], scores)
    summary = json.loads((run.root / "embed.json").read_text())
    (run.root / "embed.json").write_text(json.dumps(summary | {"source_rows": 4, "dropped_pairs": {"unlabelled": 1}}))
    (run.root / "run.toml").write_text(
        '[settings]\nsplit = "train"\n[settings.files]\n[settings.manifest]\nname = "hand"\ncolumns = {}\n'
    )
    ranked(run, psi=Psi({"clip": 1.0}, "percentile"), top="1")
    written, page = page_of(curate, run.root, "--png")
    assert written["sums"][0] == "rows    4 = 3 pairs + 1 unlabelled"
    assert (written["gallery_pairs"], written["pictures_missing"]) == (2, 3)
    assert "pickscore has no score for any ranked pair." in page
    assert "pickscore from unknown to unknown" in page
    assert "No pair has a score of every scorer, so nothing could be fitted" in page
    assert page.count('class="no-score"') == 2
    assert "Map of the prompts" not in page


def test_the_picture_would_take_the_pages_place(curate: Curate, ranked_run: Path, tmp_path: Path) -> None:
    done = curate("report", "--run", ranked_run, "--page", tmp_path / "page.png", "--png")
    assert done == Outcome(
        2, "", f"curate: --page {tmp_path}/page.png: the picture of --png would be written there; name the page .html\n"
    )
    assert not list(tmp_path.iterdir())


def test_an_unknown_ranking_names_those_there_are(curate: Curate, ranked_run: Path) -> None:
    done = curate("report", "--run", ranked_run, "--name", "best")
    assert (done.code, done.out) == (1, "")
    assert done.err == f"curate: no ranking 'best' in {ranked_run}; there are default; run `curate rank` first\n"
