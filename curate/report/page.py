"""The page of `curate report` and `curate browse`: one template, its style, its script, its charts."""

from dataclasses import dataclass, field
from functools import cache
from itertools import zip_longest
from typing import Any

from markupsafe import Markup

from curate.pages.palettes import PALETTES
from curate.pages.pictures import data_uri, thumbnails
from curate.pages.template import data_block, environment, render_page
from curate.report.charts import Figure
from curate.report.gallery import Ranking, card, pair_rows, section_ranks
from curate.sources.images import Rejected
from curate.storage.run import Run

PAGE_PAIRS = 24
SECTIONS = {"top": "the top", "borderline": "around the cut", "bottom": "the bottom"}


@dataclass
class Gallery:
    """Cards by section, and each picture once; `missing` are uids whose bytes can no longer be read, with the reason.

    wanted: how many pairs were asked for and there; fewer are shown where the page would grow too large.
    """

    sections: dict[str, list[dict[str, Any]]]
    pictures: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    wanted: int = 0

    @property
    def shown(self) -> int:
        """Pairs on the page."""
        return sum(map(len, self.sections.values()))


def make_gallery(run: Run, ranking: Ranking, wanted: int, room_bytes: int) -> Gallery:
    """The top, the borderline and the bottom, as many as fit into `room_bytes`; each section gives up as many."""
    spans = section_ranks(ranking.pairs, ranking.cut, wanted)
    rows = {name: pair_rows(ranking, "best", span.start - 1, len(span))[0] for name, span in spans.items()}
    cards = {name: [card(row | {"section": name}, ranking) for row in found] for name, found in rows.items()}
    queue = _by_importance(cards, ranking.cut)
    thumbs = thumbnails(run, ranking.connection, list(dict.fromkeys(uid for item in queue for uid in item["uids"])))
    found: dict[str, str | Rejected] = {}
    shown: dict[int, list[str]] = {}  # rank -> uids
    for item in queue:
        for uid in item["uids"]:
            if uid not in found:
                _, small = next(thumbs)  # they come in the order in which the queue first names them
                found[uid] = small if isinstance(small, Rejected) else data_uri(small)
        sizes = (len(uid) + 8 + (len(one) if isinstance(one := found[uid], str) else 0) for uid in item["uids"])
        room_bytes -= len(render_card(item)) + sum(sizes)  # a picture counts each time: an upper bound
        if room_bytes < 0:
            break
        shown[item["rank"]] = item["uids"]
    used = {uid: found[uid] for uids in shown.values() for uid in uids}
    return Gallery(
        {name: [item for item in items if item["rank"] in shown] for name, items in cards.items()},
        {uid: one for uid, one in used.items() if isinstance(one, str)},
        {uid: one.detail for uid, one in used.items() if isinstance(one, Rejected)},
        len(queue),
    )


def _by_importance(cards: dict[str, list[dict[str, Any]]], cut: int) -> list[dict[str, Any]]:
    """The most telling of each section first, in turn: the best, the nearest to the cut, the worst."""
    borderline = sorted(cards["borderline"], key=lambda item: abs(item["rank"] - cut - 0.5))
    turns = zip_longest(cards["top"], borderline, cards["bottom"][::-1])
    return [item for turn in turns for item in turn if item is not None]


def render_card(item: dict[str, Any], live: bool = False) -> str:
    """One pair as HTML; on the live page it can be tagged."""
    return environment().get_template("report/report_card.html").render(card=item, live=live)


@cache
def chart_library() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script, from the package that also draws the PNG."""
    import vl_convert  # takes seconds to load

    return (
        str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))
        .replace("\r\n", "\n")
        .replace("</script", "<\\/script")
    )


def report_page(figures: list[Figure], gallery: Gallery, live: bool = False, **values: Any) -> tuple[str, str]:
    """The page and its content policy; the live page asks its server for pairs, and its gallery is empty."""
    return render_page(
        "report",
        live=live,
        page_pairs=PAGE_PAIRS,
        library=chart_library(),
        figures=figures,
        specs=data_block({figure.key: figure.spec() for figure in figures}),
        palettes_json=data_block(PALETTES),
        gallery=gallery,
        sections=SECTIONS,
        pictures=data_block(gallery.pictures),
        missing=data_block(gallery.missing),
        render_card=lambda item: Markup(render_card(item)),
        **values,
    )
