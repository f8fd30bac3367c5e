"""Debian's Chromium, headless, for tests of pages; they skip where there is none."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(PROGRAM is None, reason="no chromium, chromium-browser or google-chrome on PATH")


@contextmanager
def browser_page(**options: Any) -> Iterator[Any]:
    """A fresh page; when the block ends nothing may have been complained of, nor fetched from elsewhere.

    The complaints and the addresses asked for stand in `page.complaints` and `page.asked`.
    """
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=PROGRAM, args=["--no-sandbox"])
        page: Any = browser.new_page(**options)
        page.complaints, page.asked = [], []
        page.on("console", lambda said: page.complaints.append(said.text) if said.type != "log" else None)
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.on("request", lambda request: page.asked.append(request.url))
        try:
            yield page
            assert page.complaints == []
        finally:
            browser.close()


def all_charts_drawn(page: Any) -> None:
    """Scroll through the page until every chart has been drawn."""
    for plot in page.locator(".plot").all():
        plot.scroll_into_view_if_needed()
        plot.locator("svg").wait_for()


def until(page: Any, expression: str, seconds: float = 20) -> None:
    """Wait for a JavaScript expression to hold. Playwright's own way runs inside the page, whose policy forbids it."""
    for _ in range(int(seconds * 20)):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"{expression} did not come true in {seconds} s")


def overflow_px(page: Any) -> int:
    """How much wider the document is than the window."""
    return int(page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))
