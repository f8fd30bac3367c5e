"""The page of `curate compare`: one HTML file, pictures inside, nothing fetched when it is opened."""

from pathlib import Path
from typing import Any

import jinja2
import pyarrow as pa

from curate.database import connect_views
from curate.errors import SourceError
from curate.images import Rejected
from curate.pictures import data_uri, thumbnails
from curate.run import Run
from curate.tables import write_text

TEMPLATE = Path(__file__).with_name("compare.html")


def write_page(run: Run, report: dict[str, Any], table: pa.Table, path: Path, gallery: int) -> None:
    """Render the report and a gallery of at most `gallery` pairs, every k-th so that all prompts have their chance."""
    step = max(1, -(-table.num_rows // gallery)) if gallery else 0
    rows = table.take(list(range(0, table.num_rows, step))).to_pylist() if step else []
    scorers = [item["scorer"] for item in report["verdicts"]]
    pictures = _thumbnails(run, rows)
    cards = [_card(row, scorers, pictures) for row in rows]
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    write_text(template.render(report=report, cards=cards, scorers=scorers, dataset=run.summary()["dataset"]), path)


def _card(row: dict[str, Any], scorers: list[str], pictures: dict[str, str]) -> dict[str, Any]:
    scores = [
        {
            "scorer": scorer,
            "model": row[f"{scorer}_model"],
            "against": row[f"{scorer}_against"],
            "change": row[f"{scorer}_model"] - row[f"{scorer}_against"],
        }
        for scorer in scorers
    ]
    return {
        "prompt": row["prompt"],
        "pair_id": row["pair_id"],
        "model_picture": pictures[row["model_uid"]],
        "against_picture": pictures[row["against_uid"]],
        "scores": scores,
    }


def _thumbnails(run: Run, rows: list[dict[str, Any]]) -> dict[str, str]:
    """image_uid -> data URI of its thumbnail. Raises SourceError for a picture that can no longer be read."""
    uids = sorted({row[side] for row in rows for side in ("model_uid", "against_uid")})
    found: dict[str, str] = {}
    for uid, small in thumbnails(run, connect_views(run), uids):
        if isinstance(small, Rejected):
            raise SourceError(f"image {uid} was scored but can no longer be read ({small.detail}); embed again")
        found[uid] = data_uri(small)
    return found
