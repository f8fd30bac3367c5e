"""The page of `curate compare`: one HTML file, pictures inside, nothing fetched when it is opened."""

from pathlib import Path
from typing import Any

from curate.compare.gallery import Gallery, make_gallery, page_data
from curate.compare.statistics.pictures import Pictures
from curate.database.connection import connect_views
from curate.pages.template import MOST_BYTES, data_block, render_page
from curate.storage.run import Run
from curate.storage.tables import write_text

PER_PICTURE_BYTES = 90  # of the data about one: its place and scores
PER_PROMPT_BYTES = 60
TABLES_BYTES = 400_000
BLOCK = 100  # pictures that the script unpacks at once, when the first of them comes near


def write_page(run: Run, report: dict[str, Any], pictures: Pictures, path: Path, prompts: int) -> dict[str, Any]:
    """Write the page; what it shows: page, page_bytes, gallery_prompts, pictures, pictures_wanted, picture_px."""
    text_bytes = sum(len(prompt.encode()) + PER_PROMPT_BYTES for prompt in pictures.prompts)
    room = MOST_BYTES - TABLES_BYTES - text_bytes - PER_PICTURE_BYTES * len(pictures.uids)
    judges = report["impartial"] or report["scorers"]
    gallery = make_gallery(run, connect_views(run, rankings=False), pictures, judges, prompts, max(room, 0))
    page = render(report, pictures, gallery)
    write_text(page, path)
    shown = set(gallery.shown)
    return {
        "page": str(path),
        "page_bytes": len(page.encode()),
        "gallery_prompts": sum(any(one in shown for row in rows for one in row) for rows in gallery.rows),
        "pictures": len(shown),
        "pictures_wanted": gallery.wanted,
        "pictures_missing": len(gallery.missing),
        "picture_px": gallery.side_px,
    }


def render(report: dict[str, Any], pictures: Pictures, gallery: Gallery) -> str:
    """The whole page as text."""
    ordered = [one for prompt in gallery.order for row in gallery.rows[prompt] for one in row if one in gallery.shown]
    stored = {one: place for place, one in enumerate(ordered)}
    stored |= {one: -1 - place for place, one in enumerate(gallery.missing)}
    uris = [gallery.shown[one] for one in ordered]
    page, _ = render_page(
        "compare",
        live=False,
        report=report,
        scorers=report["scorers"],
        towers=list(dict.fromkeys(item["tower"] for item in report["spreads"])),
        categories=sorted({one for one in pictures.categories if one is not None}),
        verdicts={(v["scorer"], v["model"], v["against"]): v for v in report["verdicts"]},
        standings={(item["scorer"], item["model"]): item for item in report["standings"]},
        spreads={(item["tower"], item["model"]): item for item in report["spreads"]},
        by_category={(v["category"], v["scorer"], v["model"], v["against"]): v for v in report["categories"]},
        data=data_block(page_data(pictures, report["scorers"], gallery, stored)),
        missing=data_block(list(gallery.missing.values())),
        blocks=[data_block(uris[start : start + BLOCK]) for start in range(0, len(uris), BLOCK)],
        block=BLOCK,
        shown=len(gallery.shown),
        wanted=gallery.wanted,
        side_px=gallery.side_px,
    )
    return page
