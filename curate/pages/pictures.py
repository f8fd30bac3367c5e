"""Pictures of a run, read back from its source, and their thumbnails for pages."""

import base64
import hashlib
import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat

import duckdb
from PIL import Image

from curate.errors import SourceError
from curate.sources.files import check_unchanged
from curate.sources.images import Decoded, Rejected, decode
from curate.sources.opening import recorded_source
from curate.sources.parquet import Location, Source
from curate.storage.files import Fingerprint
from curate.storage.prefetch import prefetched
from curate.storage.run import Run
from curate.storage.threads import batched

READ_TOGETHER = 64
THUMBNAIL_PX = 256
WEBP_QUALITY = 75
UNKNOWN = Rejected("image_missing", "the run has no such image")
OTHER = Rejected(
    "image_missing", "the source has other bytes here than those that were scored; put the file back, or embed it again"
)

PLACES = """
select image_uid, sha256, source_file, source_row_group, source_row, source_side
from images
where image_uid in (select unnest($uids))
"""


def thumbnails(
    run: Run, connection: duckdb.DuckDBPyConnection, uids: list[str], side_px: int = THUMBNAIL_PX
) -> Iterator[tuple[str, bytes | Rejected]]:
    """Each image by its uid, in order, as WebP; one that can no longer be read comes as Rejected, with the reason.

    connection: has the view `images`.
    """
    stated = _stated(connection, uids)
    read = ((chunk, _read(run, stated, chunk)) for chunk in batched(uids, READ_TOGETHER))
    with prefetched(read, 1) as ahead, ThreadPoolExecutor() as pool:  # Pillow releases the GIL
        for chunk, found in ahead:
            yield from zip(chunk, pool.map(_thumbnail_of, found, repeat(side_px)), strict=True)


def originals(run: Run, connection: duckdb.DuckDBPyConnection, uids: list[str]) -> dict[str, bytes | Rejected]:
    """Each image's own bytes by its uid; one that can no longer be read comes as Rejected, with the reason."""
    found = _read(run, _stated(connection, uids), uids)
    return {uid: UNKNOWN if data is None else data for uid, data in zip(uids, found, strict=True)}


def _thumbnail_of(data: bytes | Rejected | None, side_px: int) -> bytes | Rejected:
    picture = data if isinstance(data, Rejected) else decode(data)
    return thumbnail(picture.image, side_px) if isinstance(picture, Decoded) else picture


def _read(run: Run, stated: dict[str, tuple[Location, str]], uids: Sequence[str]) -> list[bytes | Rejected | None]:
    """What lies now where each image was, in order."""
    places = list({stated[uid][0] for uid in uids if uid in stated})
    settings = run.settings()
    source = recorded_source(settings["settings"], run.folder, settings.get("moved"))
    encoded = _read_places(source, settings["settings"]["files"], places)
    return [_as_scored(encoded[stated[uid][0]], stated[uid][1]) if uid in stated else UNKNOWN for uid in uids]


def _as_scored(data: bytes | Rejected | None, sha256: str) -> bytes | Rejected | None:
    """A file that was replaced since it was embedded would show pictures beside scores that are not theirs."""
    return OTHER if isinstance(data, bytes) and hashlib.sha256(data).hexdigest() != sha256 else data


def picture_places(connection: duckdb.DuckDBPyConnection, uids: list[str]) -> dict[str, Location]:
    """Where each image's bytes lie; images that the run does not have are left out."""
    return {uid: place for uid, (place, _) in _stated(connection, uids).items()}


def _stated(connection: duckdb.DuckDBPyConnection, uids: list[str]) -> dict[str, tuple[Location, str]]:
    """Of each image that the run has: where it lies, and the sha256 of what was scored."""
    rows = connection.execute(PLACES, {"uids": uids}).fetchall()
    return {uid: (Location(*place), sha256) for uid, sha256, *place in rows}


def _read_places(
    source: Source, recorded: dict[str, int | Fingerprint], places: list[Location]
) -> dict[Location, bytes | Rejected | None]:
    """The bytes at each place. A file that is gone, changed or damaged costs its own images only."""
    found: dict[Location, bytes | Rejected | None] = {}
    for file in sorted({place.file for place in places}):
        here = [place for place in places if place.file == file]
        try:
            for recorded_file in [file] if file in recorded else recorded:  # rows of ours come from all of them
                check_unchanged(recorded_file, recorded[recorded_file], source.places)
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
