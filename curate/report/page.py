"""The page of `curate report` and `curate browse`: one template, its style, its script, its charts."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from markupsafe import Markup

from curate.pages.palettes import PALETTES
from curate.pages.pictures import data_uri, thumbnails
from curate.pages.template import data_block, environment, render_page
from curate.report.charts import Figure
from curate.report.gallery import Ranking, card, pair_rows, section_ranks
from curate.sources.images import Rejected
from curate.storage.run import Run

MOST_BYTES = 28_000_000

SECTIONS = {
    "top": ("The top", "The pairs that rank first."),
    "borderline": ("The borderline", "The pairs around the cut: the last that are selected, the first that are not."),
    "bottom": ("The bottom", "The pairs that rank last."),
}


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
    rows = {name: pair_rows(ranking, "best", span.start - 1, len(span)) for name, span in spans.items()}
    cards = {name: [card(row, ranking) for row in found] for name, found in rows.items()}
    gallery = Gallery({name: [] for name in cards}, wanted=sum(map(len, cards.values())))
    queue = list(_by_importance(cards, ranking.cut))
    uids = list(dict.fromkeys(uid for _, item in queue for uid in item["uids"]))
    pictures = thumbnails(run, ranking.connection, uids)
    for section, item in queue:
        for uid in item["uids"]:
            while uid not in gallery.pictures and uid not in gallery.missing:
                _keep(gallery, *next(pictures))
        room_bytes -= len(render_card(item)) + _size(item["uids"], gallery)
        if room_bytes < 0:
            break
        gallery.sections[section].append(item)
    _tidy(gallery)
    return gallery


def _by_importance(cards: dict[str, list[dict[str, Any]]], cut: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """The most telling of each section first, in turn: the best, the nearest to the cut, the worst."""
    queues = {
        "top": cards["top"],
        "borderline": sorted(cards["borderline"], key=lambda item: abs(item["rank"] - cut - 0.5)),
        "bottom": cards["bottom"][::-1],
    }
    for place in range(max(map(len, queues.values()), default=0)):
        for name, items in queues.items():
            if place < len(items):
                yield name, items[place]


def _keep(gallery: Gallery, uid: str, small: bytes | Rejected) -> None:
    if isinstance(small, Rejected):
        gallery.missing[uid] = small.detail
    else:
        gallery.pictures[uid] = data_uri(small)


def _size(uids: list[str], gallery: Gallery) -> int:
    """Bytes that a card's pictures add, were they not on the page yet (counted each time: an upper bound)."""
    return sum(len(uid) + len(gallery.pictures.get(uid, "")) + 8 for uid in uids)


def _tidy(gallery: Gallery) -> None:
    """Sections in the order of the ranking; pictures of cards that found no room go."""
    for items in gallery.sections.values():
        items.sort(key=lambda item: item["rank"])
    used = {uid for items in gallery.sections.values() for item in items for uid in item["uids"]}
    gallery.pictures = {uid: uri for uid, uri in gallery.pictures.items() if uid in used}
    gallery.missing = {uid: detail for uid, detail in gallery.missing.items() if uid in used}


def render_card(item: dict[str, Any]) -> str:
    """One pair as HTML, the same on both pages."""
    return environment().get_template("report/report_card.html").render(card=item)


@cache
def chart_library() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script, from the package that also draws the PNG."""
    import vl_convert  # takes seconds to load

    return (
        str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))
        .replace("\r\n", "\n")
        .replace("</script", "<\\/script")
    )


def report_page(figures: list[Figure], gallery: Gallery | None, **values: Any) -> tuple[str, str]:
    """The page and its content policy; without a gallery it is the live page, which asks its server for pairs."""
    return render_page(
        "report",
        live=gallery is None,
        library=chart_library(),
        figures=figures,
        specs=data_block({figure.key: figure.spec() for figure in figures}),
        palettes_json=data_block(PALETTES),
        gallery=gallery,
        sections=SECTIONS,
        pictures=data_block(gallery.pictures if gallery else {}),
        missing=data_block(gallery.missing if gallery else {}),
        render_card=lambda item: Markup(render_card(item)),
        **values,
    )
