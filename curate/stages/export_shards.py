"""`curate export-shards`: the selected pairs as WebDataset tars, the source's bytes untouched.

The same selection gives the same bytes: fixed times, owner and order. Selected pairs lie scattered over the
source, so the images are copied in source order to one spool file first: each row group is read once.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

from webdataset import TarWriter

from curate.database import query_text
from curate.engines.local import batched
from curate.errors import RunError
from curate.model_set import file_sha256
from curate.progress import Advance, progress
from curate.run import Run
from curate.source import Location, Source, reopen_source
from curate.stages.rank import open_views, ranking_settings
from curate.tables import atomic_path, write_text, writing
from schemas import shards

SIDES = (shards.PREFERRED, shards.REJECTED)
IMAGES_READ_TOGETHER = 512
Row = dict[str, Any]


@dataclass(frozen=True)
class Spool:
    """Image bytes by location: (offset, size) in one file."""

    stream: IO[bytes]
    places: dict[Location, tuple[int, int]]

    def read(self, location: Location) -> bytes:
        """The image's encoded bytes."""
        offset, size = self.places[location]
        self.stream.seek(offset)
        return self.stream.read(size)


def export_shards(run: Run, name: str, output: Path, pairs_per_shard: int) -> dict[str, Any]:
    """Write the tars and, last, shards.json; return its content.

    Raises: RunError when there is no such ranking or the source's bytes changed since it was scored; WriteError.
    """
    settings = run.settings()["settings"]
    ranking = ranking_settings(run, name)
    rows = _selected_rows(run, name)
    source = reopen_source(settings)
    extension = common_extension(rows)
    index_path = output / shards.SHARD_INDEX
    stale = _earlier_files(index_path)
    index_path.unlink(missing_ok=True)  # from here on the folder is visibly unfinished until the new index stands
    with writing(output):
        output.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=output) as stream, progress("images", 2 * len(rows)) as advance:
            spool = _fill_spool(stream, rows, source, advance)
            chunks = enumerate(batched(rows, pairs_per_shard))
            entries = [
                _write_shard(output / shards.SHARD_NAME.format(index=number), chunk, spool, extension, run)
                for number, chunk in chunks
            ]
    for file in stale - {entry["file"] for entry in entries}:
        (output / file).unlink(missing_ok=True)
    index = _index(run, ranking, extension, entries)
    write_text(json.dumps(index, indent=2) + "\n", index_path)
    return index


def common_extension(rows: list[Row]) -> str:
    """The one extension of all members: the images' common format, or `jpg` when formats are mixed."""
    formats = {row[f"{side}_format"] for row in rows for side in SIDES}
    if len(formats) != 1:
        return shards.MIXED_EXTENSION
    return shards.IMAGE_EXTENSIONS.get(formats.pop(), shards.MIXED_EXTENSION)


def sample_of(row: Row, spool: Spool, extension: str, dataset: str, scorers: list[str]) -> dict[str, Any]:
    """One pair as TarWriter takes it: member name -> bytes."""
    meta = {
        "pair_id": row["pair_id"],
        "prompt_id": row["prompt_id"],
        "quality": row["quality"],
        "rank": row["rank"],
        "scores": {s: {side: row[f"{s}_{side}"] for side in SIDES} for s in scorers},
        "preferred": _image_meta(row, shards.PREFERRED),
        "rejected": _image_meta(row, shards.REJECTED),
        "source": {
            "dataset": dataset,
            "split": row["split"],
            "file": Path(row["source_file"]).name,
            "row_group": row["source_row_group"],
            "row": row["source_row"],
            "annotator_id": row["annotator_id"],
        },
    }
    return {
        "__key__": f"{row['rank']:0{shards.KEY_DIGITS}d}",
        f"{shards.PREFERRED}.{extension}": spool.read(_location(row, shards.PREFERRED)),
        f"{shards.REJECTED}.{extension}": spool.read(_location(row, shards.REJECTED)),
        shards.PROMPT: row["prompt"].encode("utf-8"),
        shards.META: json.dumps(meta, ensure_ascii=False).encode("utf-8"),
    }


def _selected_rows(run: Run, name: str) -> list[Row]:
    connection = open_views(run)
    scorers = run.summary()["scorers"]
    query = query_text("shard_samples", scorer=scorers, side=list(SIDES)).replace(
        "from ranking\n", f'from "ranking_{name}" as ranking\n'
    )
    found = connection.execute(query)
    names = [column[0] for column in found.description]
    return [dict(zip(names, values, strict=True)) for values in found.fetchall()]


def _fill_spool(stream: IO[bytes], rows: list[Row], source: Source, advance: Advance) -> Spool:
    wanted = {_location(row, side): (row[f"{side}_sha256"], row[f"{side}_uid"]) for row in rows for side in SIDES}
    places: dict[Location, tuple[int, int]] = {}
    for locations in batched(sorted(wanted), IMAGES_READ_TOGETHER):
        for location, data in source.image_bytes(locations).items():
            sha256, uid = wanted[location]
            if hashlib.sha256(data or b"").hexdigest() != sha256:
                raise RunError(f"{location.file}: image {uid} is not the one that was scored; embed again")
            places[location] = (stream.tell(), len(data or b""))
            stream.write(data or b"")
        advance(len(locations))
    advance(2 * len(rows) - len(wanted))
    return Spool(stream, places)


def _write_shard(path: Path, rows: list[Row], spool: Spool, extension: str, run: Run) -> dict[str, Any]:
    settings, scorers = run.settings()["settings"], run.summary()["scorers"]
    dataset = settings["manifest"]["name"]
    with atomic_path(path) as temporary:
        with (
            temporary.open("wb") as stream,
            TarWriter(stream, user="pairsieve", group="pairsieve", mtime=0.0, encoder=False) as tar,
        ):
            for row in rows:
                tar.write(sample_of(row, spool, extension, dataset, scorers))
        digest, size = file_sha256(temporary), temporary.stat().st_size
    return {"file": path.name, "samples": len(rows), "bytes": size, "sha256": digest}


def _index(run: Run, ranking: dict[str, Any], extension: str, entries: list[dict[str, Any]]) -> dict[str, Any]:
    kept = ("name", "metric", "psi", "psi_norm", "top", "base_pairs", "selected_pairs")
    return {
        "format": shards.INDEX_FORMAT,
        "dataset": run.settings()["settings"]["manifest"]["name"],
        "ranking": {key: ranking[key] for key in kept} | {"chosen_by": ranking.get("chosen_by", list(ranking["psi"]))},
        "extension": extension,
        "pairs": sum(entry["samples"] for entry in entries),
        "shards": entries,
    }


def _earlier_files(index_path: Path) -> set[str]:
    """Tars of an earlier export into the same folder."""
    try:
        return {entry["file"] for entry in json.loads(index_path.read_text(encoding="utf-8"))["shards"]}
    except FileNotFoundError:
        return set()
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{index_path} is damaged ({error}); delete {index_path.parent} and export again") from error


def _location(row: Row, side: str) -> Location:
    return Location(row[f"{side}_file"], row[f"{side}_row_group"], row[f"{side}_row"], row[f"{side}_side"])


def _image_meta(row: Row, side: str) -> dict[str, Any]:
    meta = {key: row[f"{side}_{key}"] for key in ("sha256", "format", "width", "height")}
    return {"image_uid": row[f"{side}_uid"]} | meta
