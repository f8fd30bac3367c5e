"""Pictures of a run, read back from its source, and their thumbnails for pages."""

import base64
import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat

import duckdb
from PIL import Image

from curate.engines.local import batched
from curate.errors import SourceError
from curate.images import Decoded, Rejected, decode
from curate.run import Run
from curate.source import Location, Source, check_unchanged, recorded_source
from curate.storage import Fingerprint

READ_TOGETHER = 64
THUMBNAIL_PX = 256
WEBP_QUALITY = 75
UNKNOWN = Rejected("image_missing", "the run has no such image")

PLACES = """
select image_uid, source_file, source_row_group, source_row, source_side
from images
where image_uid in (select unnest($uids))
"""


def thumbnails(
    run: Run, connection: duckdb.DuckDBPyConnection, uids: list[str], side_px: int = THUMBNAIL_PX
) -> Iterator[tuple[str, bytes | Rejected]]:
    """Each image by its uid, in order, as WebP; one that can no longer be read comes as Rejected, with the reason.

    connection: has the view `images`.
    """
    settings = run.settings()["settings"]
    source = recorded_source(settings)
    with ThreadPoolExecutor() as pool:  # Pillow releases the GIL while it decodes, resizes and encodes
        for chunk in batched(uids, READ_TOGETHER):
            places = picture_places(connection, chunk)
            encoded = _read_places(source, settings["files"], list(places.values()))
            found = [encoded[places[uid]] if uid in places else UNKNOWN for uid in chunk]
            yield from zip(chunk, pool.map(_thumbnail_of, found, repeat(side_px)), strict=True)


def originals(run: Run, connection: duckdb.DuckDBPyConnection, uids: list[str]) -> dict[str, bytes | Rejected]:
    """Each image's own bytes by its uid; one that can no longer be read comes as Rejected, with the reason."""
    settings = run.settings()["settings"]
    places = picture_places(connection, uids)
    encoded = _read_places(recorded_source(settings), settings["files"], list(places.values()))
    found = {uid: encoded[places[uid]] if uid in places else UNKNOWN for uid in uids}
    return {uid: UNKNOWN if data is None else data for uid, data in found.items()}


def _thumbnail_of(found: bytes | Rejected | None, side_px: int) -> bytes | Rejected:
    picture = found if isinstance(found, Rejected) else decode(found)
    return thumbnail(picture.image, side_px) if isinstance(picture, Decoded) else picture


def picture_places(connection: duckdb.DuckDBPyConnection, uids: list[str]) -> dict[str, Location]:
    """Where each image's bytes lie; images that the run does not have are left out."""
    return {uid: Location(*place) for uid, *place in connection.execute(PLACES, {"uids": uids}).fetchall()}


def _read_places(
    source: Source, recorded: dict[str, int | Fingerprint], places: list[Location]
) -> dict[Location, bytes | Rejected | None]:
    """The bytes at each place. A file that is gone, changed or damaged costs its own images only."""
    found: dict[Location, bytes | Rejected | None] = {}
    for file in sorted({place.file for place in places}):
        here = [place for place in places if place.file == file]
        try:
            check_unchanged(file, recorded[file])
            found.update(source.image_bytes(here))
        except SourceError as error:
            found.update(dict.fromkeys(here, Rejected("image_missing", str(error))))
    return found


def thumbnail(picture: Image.Image, side_px: int = THUMBNAIL_PX) -> bytes:
    """WebP, at most side_px on the long side; small pictures keep every pixel."""
    buffer = io.BytesIO()
    if max(picture.size) <= side_px // 2:
        picture.save(buffer, "WEBP", lossless=True, method=1, quality=20)  # a seventh of the time, a tenth larger
    else:
        small = picture.copy()
        small.thumbnail((side_px, side_px), Image.Resampling.LANCZOS, reducing_gap=3.0)
        small.save(buffer, "WEBP", quality=WEBP_QUALITY)
    return buffer.getvalue()


def data_uri(webp: bytes) -> str:
    """The picture inside its own address."""
    return f"data:image/webp;base64,{base64.b64encode(webp).decode()}"
