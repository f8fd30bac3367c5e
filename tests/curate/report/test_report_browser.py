"""The report as a reader meets it, in a real browser: charts, filter, pictures, dark mode, keyboard, phone."""

import re
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from curate.pages.palettes import PALETTES
from curate.report import ReportOptions, report
from curate.storage.run import Run
from tests.curate.chromium import all_charts_drawn, browser_page, needs_browser, overflow_px, until

pytestmark = needs_browser


@pytest.fixture(scope="module")
def page_file(ranked_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with two pictures whose bytes are gone."""
    folder = tmp_path_factory.mktemp("page")
    run = Path(shutil.copytree(ranked_run, folder / "run"))
    for part in (run / "images").glob("*.parquet"):
        forget_two(part)
    report(Run(run), ReportOptions(gallery=60))
    return run / "report.html"


def forget_two(part: Path) -> None:
    table = pq.read_table(part)
    lost = pc.is_in(table["image_uid"], pa.array(["image-3", "image-4"]))
    pq.write_table(table.filter(pc.invert(lost)), part)


def test_it_opens_without_a_complaint_and_without_the_network(page_file: Path) -> None:
    with browser_page() as page:
        page.goto(page_file.as_uri())
        all_charts_drawn(page)
        assert page.locator(".plot svg").count() == page.locator(".plot").count() == 13
        assert [url for url in page.asked if not url.startswith(("data:", "file:"))] == []
        assert page.title() == "pickapic_v2: ranking “default”"
        assert page.locator("h1").count() == 1


def test_every_chart_says_what_it_shows(page_file: Path) -> None:
    with browser_page() as page:
        page.goto(page_file.as_uri())
        all_charts_drawn(page)
        for plot in page.locator(".plot").all():
            assert plot.get_attribute("role") == "graphics-document"
            assert re.search(r"\d", plot.get_attribute("aria-label"))
        figures = page.locator("figure.chart")
        assert figures.locator("details").count() == figures.count()


def test_pictures_load_as_they_come_near_and_lost_ones_say_why(page_file: Path) -> None:
    with browser_page() as page:
        page.goto(page_file.as_uri())
        first = page.locator(".card").last.locator("img[src]")
        assert first.count() == 0  # on a later page
        for start in (1, 25, 49):
            page.locator("#place").get_by_text(f"{start} to ").wait_for()
            for card in page.locator(".card:visible").all():
                card.scroll_into_view_if_needed()
            shown = "[...document.querySelectorAll('.card:not([hidden]) img')]"
            until(page, f"{shown}.every(i => i.complete && i.naturalWidth)")
            if start < 49:
                page.locator("#next").click()
        assert page.locator("#next").is_disabled()
        lost = page.locator(".card .lost").all_text_contents()
        assert set(lost) == {"the run has no such image"}
        assert page.locator(".card img").count() + len(lost) == 120
        assert "2 of 61 pictures can no longer be read" in page.locator("#gallery").inner_text()


def test_the_filter_by_keyboard(page_file: Path) -> None:
    with browser_page() as page:
        page.goto(page_file.as_uri())
        count = page.locator("#count")
        assert count.get_attribute("aria-live") == "polite"
        assert count.inner_text() == "60 pairs"
        page.keyboard.press("/")
        page.keyboard.type("NUMBER 1")
        assert count.inner_text() == "24 of 60 pairs"  # number 1 and numbers 10 to 14
        assert page.locator(".card:visible").count() == 24
        assert page.locator("#place").inner_text() == "1 to 24 of 24"
        page.keyboard.press("Control+a")
        page.keyboard.type("</script><script>")
        assert count.inner_text() == "4 of 60 pairs"
        page.keyboard.press("Control+a")
        page.keyboard.type("no such prompt")
        assert (count.inner_text(), page.locator("#place").inner_text()) == ("0 of 60 pairs", "no pair")
        page.keyboard.press("Enter")  # submits nothing
        assert page.locator("#filter").input_value() == "no such prompt"
        page.keyboard.press("Control+a")
        page.keyboard.press("Delete")
        assert page.locator("#place").inner_text() == "1 to 24 of 60"
        page.locator("#section").select_option("bottom")
        assert count.inner_text() == "34 of 60 pairs"
        assert page.locator(".card:visible header b").first.text_content() == "#27"


def test_what_can_be_used_can_be_reached_by_tab(page_file: Path) -> None:
    with browser_page() as page:
        page.goto(page_file.as_uri())
        reached = []
        for _ in range(110):  # past the pictures, which can be enlarged by Enter
            page.keyboard.press("Tab")
            reached.append(page.evaluate("document.activeElement.id || document.activeElement.textContent"))
        assert reached[0] == "Skip to the pairs"
        assert {"mode", "filter", "The metric’s SQL"} <= set(reached)
        page.locator(".skip").focus()
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "gallery"


def colours(page: Any) -> tuple[str, str | None]:
    """The page's background, and the colour of the counts chart's first bar."""
    background = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    bar = page.locator('[data-figure="counts"] svg path[aria-roledescription="bar"]').first
    page.locator('[data-figure="counts"]').scroll_into_view_if_needed()
    bar.wait_for()
    return background, bar.get_attribute("fill")


def rgb(colour: str) -> str:
    return f"rgb({', '.join(str(int(colour[i : i + 2], 16)) for i in (1, 3, 5))})"


def test_light_and_dark_by_the_system_and_by_the_button(page_file: Path) -> None:
    looks = {mode: (rgb(palette["paper"]), palette["chosen"]) for mode, palette in PALETTES.items()}
    with browser_page(color_scheme="dark") as page:
        page.goto(page_file.as_uri())
        assert colours(page) == looks["dark"]
        page.emulate_media(color_scheme="light")
        until(page, "!!document.querySelector('[data-figure=counts] svg path[fill=\"#0072b2\"]')")
        assert colours(page) == looks["light"]
        page.locator("#mode").click()
        until(page, "!!document.querySelector('[data-figure=counts] svg path[fill=\"#56b4e9\"]')")
        assert colours(page) == looks["dark"]
        assert page.locator("#mode").get_attribute("aria-label") == "Switch to light colours"


@pytest.mark.parametrize("width_px", [320, 390, 768, 1440])
def test_no_sideways_scrolling(page_file: Path, width_px: int) -> None:
    with browser_page(viewport={"width": width_px, "height": 844}) as page:
        page.goto(page_file.as_uri())
        all_charts_drawn(page)
        for details in page.locator("details > summary").all():
            details.click()
        page.locator(".card:visible").last.scroll_into_view_if_needed()
        assert overflow_px(page) == 0


CUT_OFF = """[...document.querySelectorAll(".plot svg")].flatMap(svg => {
  const edge = svg.getBoundingClientRect();
  const beyond = box => box.right > edge.right + 1 || box.left < edge.left - 1;
  const texts = [...svg.querySelectorAll("text")].filter(text => beyond(text.getBoundingClientRect()));
  return texts.map(text => text.textContent);
})"""


@pytest.mark.parametrize("width_px", [320, 390, 768, 1440])
def test_no_word_of_a_chart_is_cut_off(page_file: Path, width_px: int) -> None:
    with browser_page(viewport={"width": width_px, "height": 844}) as page:
        page.goto(page_file.as_uri())
        all_charts_drawn(page)
        assert page.evaluate(CUT_OFF) == []


def test_pointing_at_a_prompt_of_the_map_shows_it(page_file: Path) -> None:
    with browser_page() as page:
        page.goto(page_file.as_uri())
        page.locator("#map .plot").scroll_into_view_if_needed()
        page.locator('#map svg path[aria-roledescription="point"]').first.hover()
        tooltip = page.locator("#vg-tooltip-element.visible")
        tooltip.wait_for()
        assert re.search("a red circle number|quotes", tooltip.inner_text())
        assert tooltip.locator("b").count() == 0  # a prompt's own tags are text


def test_a_prompt_cannot_run_as_script(page_file: Path) -> None:
    """Even a script that got into the page would not run: its hash is not in the policy."""
    with browser_page() as page:
        page.goto(page_file.as_uri())
        page.evaluate("document.body.append(Object.assign(document.createElement('script'), {text: 'window.ran = 1'}))")
        assert page.evaluate("window.ran") is None
        assert len(page.complaints) == 1
        assert "Content Security Policy" in page.complaints.pop()
