"""The page of `curate compare`: one HTML file, pictures inside, nothing fetched when it is opened."""

import base64
import io
from pathlib import Path
from typing import Any

import jinja2
import pyarrow as pa
from PIL import Image

from curate.database import connect_views, fetch, literal
from curate.engines.local import batched
from curate.errors import SourceError
from curate.images import Decoded, decode
from curate.run import Run
from curate.source import Location, Source, reopen_source
from curate.tables import write_text

TEMPLATE = Path(__file__).with_name("compare.html")
THUMBNAIL_PX = 320
READ_TOGETHER = 64


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
    """image_uid -> data URI of the picture, at most THUMBNAIL_PX on its long side."""
    uids = sorted({row[side] for row in rows for side in ("model_uid", "against_uid")})
    source = reopen_source(run.settings()["settings"])
    found: dict[str, str] = {}
    for chunk in batched(uids, READ_TOGETHER):
        names = ", ".join(literal(uid) for uid in chunk)
        query = (
            "select image_uid, source_file, source_row_group, source_row, source_side from images "
            f"where image_uid in ({names})"
        )
        places = {uid: Location(*place) for uid, *place in fetch(connect_views(run), query)}
        found.update(_data_uris(source, places))
    return found


def _data_uris(source: Source, places: dict[str, Location]) -> dict[str, str]:
    encoded = source.image_bytes(list(places.values()))
    return {uid: _data_uri(encoded[place], uid) for uid, place in places.items()}


def _data_uri(data: bytes | None, uid: str) -> str:
    """Small pictures as lossless PNG, larger ones as a JPEG thumbnail."""
    decoded = decode(data)
    if not isinstance(decoded, Decoded):
        raise SourceError(f"image {uid} was scored but can no longer be read ({decoded.detail}); embed again")
    picture, buffer = decoded.image, io.BytesIO()
    if max(picture.size) <= THUMBNAIL_PX // 2:
        picture.save(buffer, "PNG")
        return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    picture.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.LANCZOS)
    picture.save(buffer, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
