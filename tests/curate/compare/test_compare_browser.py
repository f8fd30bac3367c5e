"""The page of a comparison as a reader meets it, in a real browser: order, filters, pictures, dark mode, phone."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate import cli
from curate.compare import page as compare_page
from curate.compare.stage import CompareOptions, compare
from curate.pages.palettes import PALETTES
from curate.storage.run import Run
from tests.curate.builders import MODELS, pair_row, write_pairs
from tests.curate.chromium import browser_page, needs_browser, overflow_px, until
from tests.curate.conftest import NASTY_PROMPT
from tests.demo import ROOT

pytestmark = needs_browser
PROMPTS = 30


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three models, every two of them a pair, over thirty prompts."""
    folder = tmp_path_factory.mktemp("compared")
    rows: list[dict[str, object]] = []
    for number in range(PROMPTS):
        drawn = [(name, f"{name}-{number}", pair_row(3 * number + i)["jpg_0"]) for i, name in enumerate("abc")]
        for one, two in ((0, 1), (0, 2), (1, 2)):
            sides = {"model_0": drawn[one][0], "image_0_uid": drawn[one][1], "jpg_0": drawn[one][2]}
            sides |= {"model_1": drawn[two][0], "image_1_uid": drawn[two][1], "jpg_1": drawn[two][2]}
            caption = NASTY_PROMPT if number == 7 else f"a red circle number {number}"
            rows.append(pair_row(number, caption=caption, ranking_id=len(rows), **sides))
    manifest = folder / "pairs.toml"
    text = (ROOT / "data_manifests" / "pickapic_v2.toml").read_text()
    manifest.write_text(text.replace("[columns]", '[columns]\ncategory = "category"'))
    source = write_pairs(folder / "source" / "train-0.parquet", rows)
    table = pq.read_table(source)
    table = table.append_column("category", pa.array([str(row["user_id"]) for row in rows]))
    pq.write_table(table, source, row_group_size=5)
    embed = ["--manifest", str(manifest), "--models", MODELS, "--source", str(source), "--device", "cpu"]
    cli.app(["embed", *embed, "--run", str(folder / "run")], standalone_mode=False)
    return folder / "run"


@pytest.fixture(scope="module")
def report(run: Path) -> dict[str, Any]:
    return compare(Run(run), CompareOptions())


@pytest.fixture(scope="module")
def page_file(report: dict[str, Any]) -> Path:
    return Path(report["page"])


def titles(page: Any) -> list[str]:
    found: list[str] = page.locator("#prompts .prompt h3").all_inner_texts()
    return found


def differences(page: Any) -> list[float]:
    return [
        float(text.split()[-1]) for text in page.locator("#prompts .prompt header span:last-child").all_inner_texts()
    ]


def all_of_them(page: Any) -> None:
    """Scroll until every card has been made."""
    while (made := page.locator("#prompts .prompt").count()) < PROMPTS:
        page.locator("#more").scroll_into_view_if_needed()
        until(page, f"document.querySelectorAll('#prompts .prompt').length > {made}")


def test_it_opens_without_a_complaint_and_without_the_network(page_file: Path) -> None:
    with browser_page() as page:
        page.goto(page_file.as_uri())
        assert page.title() == "3 models, measured by c"
        all_of_them(page)
        assert page.locator("#prompts .prompt").count() == PROMPTS
        assert page.locator("#prompts .prompt img").count() == 3 * PROMPTS
        page.locator("#prompts .prompt img").last.scroll_into_view_if_needed()
        until(page, "[...document.querySelectorAll('#prompts .prompt img')].at(-1).naturalWidth > 0")
        assert [url for url in page.asked if not url.startswith(("data:", "file:"))] == []
        assert titles(page).count(NASTY_PROMPT) == 1


def test_the_best_and_the_worst_case_stand_first_and_the_order_can_be_chosen(
    page_file: Path, report: dict[str, Any]
) -> None:
    with browser_page() as page:
        page.goto(page_file.as_uri())
        all_of_them(page)
        found = differences(page)
        ranked = sorted(found, reverse=True)
        assert found[:4] == [ranked[0], ranked[-1], ranked[1], ranked[-2]]
        for order, expected in (("best", ranked), ("worst", ranked[::-1]), ("close", sorted(found, key=abs))):
            page.locator("#order").select_option(order)
            all_of_them(page)
            assert differences(page) == expected
        page.locator("#model").select_option("2")
        page.locator("#against").select_option("0")
        page.locator("#order").select_option("best")
        all_of_them(page)
        assert differences(page) == pytest.approx([-one for one in ranked[::-1]])
        rate = sum(one < 0 for one in found) / PROMPTS
        verdict = next(v for v in report["verdicts"] if (v["scorer"], v["model"], v["against"]) == ("clip", "a", "c"))
        assert verdict["raw_win_rate"] == pytest.approx(1 - rate)


def test_the_verdict_stands_first_and_then_the_largest_wins_and_losses(page_file: Path, report: dict[str, Any]) -> None:
    with browser_page(viewport={"width": 390, "height": 844}) as page:
        page.goto(page_file.as_uri())
        assert page.locator(".headline").inner_text() == report["headline"]
        shown = [[float(text.split()[-1]) for text in page.locator(f"#{kind} header span:last-child").all_inner_texts()]
                 for kind in ("wins", "losses")]  # fmt: skip
        all_of_them(page)
        ranked = sorted(differences(page), reverse=True)
        assert shown == [ranked[:3], ranked[:-4:-1]]
        wide = "[...document.querySelectorAll('.wide')].filter(one => one.scrollWidth > one.clientWidth).length"
        assert page.evaluate(wide) == 0  # on a phone no table is cut


def test_filters_by_text_and_category(page_file: Path) -> None:
    with browser_page() as page:
        page.goto(page_file.as_uri())
        assert page.locator("#count").inner_text() == "30 prompts"
        page.keyboard.press("/")
        page.keyboard.type("NUMBER 1")
        assert page.locator("#count").inner_text() == "11 of 30 prompts"
        assert all("number 1" in title for title in titles(page))
        page.locator("#category").select_option("1")
        assert page.locator("#count").inner_text() == "5 of 30 prompts"  # 1, 10, 13, 16, 19
        page.locator("#filter").fill("</script><script>")
        page.locator("#category").select_option("")
        assert titles(page) == [NASTY_PROMPT]
        page.keyboard.press("Enter")
        assert page.locator("#filter").input_value() == "</script><script>"


def test_scores_stand_under_each_picture_and_the_best_is_marked(page_file: Path) -> None:
    with browser_page() as page:
        page.goto(page_file.as_uri())
        card = page.locator("#prompts .prompt").first
        for place in range(3):  # each scorer's best of the row is marked once
            values = [float(text) for text in card.locator(f"dd:nth-of-type({place + 1})").all_inner_texts()]
            marked = card.locator(f"dd:nth-of-type({place + 1}).top").all_inner_texts()
            assert [float(text) for text in marked] == [max(values)]
        assert card.locator("figcaption strong").all_inner_texts() == ["a", "b", "c"]


def test_light_and_dark_by_the_system_and_by_the_button(page_file: Path) -> None:
    paper = {mode: tuple(int(palette["paper"][i : i + 2], 16) for i in (1, 3, 5)) for mode, palette in PALETTES.items()}
    with browser_page(color_scheme="dark") as page:
        page.goto(page_file.as_uri())

        def colour() -> str:
            return str(page.evaluate("getComputedStyle(document.documentElement).backgroundColor"))

        assert colour() == f"rgb{paper['dark']}"
        page.locator("#mode").click()
        assert colour() == f"rgb{paper['light']}"
        assert page.locator("#mode").get_attribute("aria-label") == "Switch to dark colours"


@pytest.mark.parametrize("width_px", [320, 390, 768, 1440])
def test_no_sideways_scrolling(page_file: Path, width_px: int) -> None:
    with browser_page(viewport={"width": width_px, "height": 844}) as page:
        page.goto(page_file.as_uri())
        for details in page.locator("details > summary").all():
            details.click()
        all_of_them(page)
        assert overflow_px(page) == 0


def test_without_room_the_most_telling_prompts_have_pictures_and_all_have_scores(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    room = 25_000
    monkeypatch.setattr(compare_page, "MOST_BYTES", compare_page.TABLES_BYTES + room)
    report = compare(Run(copy), CompareOptions())
    assert 0 < report["pictures"] < 3 * PROMPTS == report["pictures_wanted"]
    page = Path(report["page"]).read_text()
    assert sum(map(len, re.findall(r"data:image/webp;base64,[^\"]+", page))) < room
    data = json.loads(re.search(r'id="data">(.*?)</script>', page)[1])  # type: ignore[index]
    with_pictures = [any(cell[0] is not None for row in one["rows"] for cell in row) for one in data["prompts"]]
    assert with_pictures == sorted(with_pictures, reverse=True)
    with browser_page() as tab:
        tab.goto(Path(report["page"]).as_uri())
        assert tab.locator(".note").filter(has_text="pictures have room in this file").count() == 1
        all_of_them(tab)
        assert tab.locator(".none").first.inner_text() == "no room for the picture"
        assert tab.locator("#prompts dd").count() == 3 * 3 * PROMPTS


def test_a_lost_picture_says_why(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    settings = (copy / "run.toml").read_text()
    (copy / "run.toml").write_text(re.sub(r"(\nsize = )\d+", r"\g<1>1", settings))
    report = compare(Run(copy), CompareOptions(gallery=1))
    assert (report["pictures"], report["pictures_missing"]) == (0, 3)
    with browser_page() as page:
        page.goto(Path(report["page"]).as_uri())
        assert "changed since it was embedded" in page.locator(".lost").first.inner_text()
