"""The selected pairs as samples: what each says in its `json`, and where its images' bytes lie."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import duckdb

from curate.database.connection import create_parquet_view, fetch, fetch_count
from curate.database.queries import query_text
from curate.export.encoding import Encoding
from curate.rank.prefer import HUMAN
from curate.rank.rankings import ranking_settings
from curate.sources.parquet import Location
from curate.storage.run import Run
from schemas import shards

SIDES = (shards.PREFERRED, shards.REJECTED)
PAIRS_JOINED_TOGETHER = 8_192
"""The database joins and sorts so many pairs at once, whatever their number: that bounds what it holds."""
ROWS_READ_TOGETHER = 1024
MEASURED = "size_bytes"
Row = dict[str, Any]


class ImageFacts(NamedTuple):
    """What a sample says of an image, and its length; None of a run made before images were measured."""

    sha256: str
    size_bytes: int
    format: str
    width: int
    height: int


class SelectedPairs:
    """The selected pairs of one ranking, read from the run's tables as often as asked, never all at once.

    connection: has the run's views. seed: of the shuffle; None: in rank order.
    """

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, run: Run, name: str, seed: int | None, encoding: Encoding
    ) -> None:
        self.scorers: list[str] = run.summary()["scorers"]
        self.dataset: str = run.settings()["settings"]["manifest"]["name"]
        self.encoding = encoding
        self._connection = connection
        self.by_rule = ranking_settings(run, name).get("prefer", HUMAN) != HUMAN
        create_parquet_view(connection, "ranking", (run.rankings / f"{name}.parquet").resolve())
        connection.execute(f"create temp table shard_order as {query_text('export/order')}", {"seed": seed}).fetchall()
        self.votes = not self.by_rule and bool(fetch(connection, "select count(strength) from pairs")[0][0])
        columns = connection.execute("select * from images limit 0").description
        self.measured = MEASURED in {column[0] for column in columns}
        self.count = fetch_count(connection, "shard_order")
        self.extension = self._extension()

    def rows(self) -> Iterator[Row]:
        """One pair at a time, in the shards' order; `place` counts them from 0."""
        query = query_text("export/samples", scorer=self.scorers, side=list(SIDES))
        if self.by_rule:  # who voted, and how many for whom, is said of the human's preference
            query = query.replace("pairs.annotator_id", "null::varchar as annotator_id")
            query = query.replace("pairs.strength", "null::float as strength")
        if not self.measured:  # a run made before images were measured
            for side in SIDES:
                query = query.replace(f"{side}.size_bytes as", "null::bigint as")
        for first in range(0, self.count, PAIRS_JOINED_TOGETHER):
            places = {"first": first, "end": first + PAIRS_JOINED_TOGETHER}
            for batch in self._connection.sql(query, params=places).to_arrow_reader(ROWS_READ_TOGETHER):
                yield from batch.to_pylist()

    def sample_meta(self, row: Row, facts: tuple[ImageFacts, ...]) -> dict[str, Any]:
        """The `json` of a sample. facts: of the preferred and the rejected image as they are written."""
        return {
            "pair_id": row["pair_id"],
            "prompt_id": row["prompt_id"],
            "quality": row["quality"],
            "rank": row["rank"],
            **({} if row["strength"] is None else {"strength": row["strength"]}),
            "scores": {s: {side: row[f"{s}_{side}"] for side in SIDES} for s in self.scorers},
            **{side: self._image_meta(row, side, of) for side, of in zip(SIDES, facts, strict=True)},
            "source": {
                "dataset": self.dataset,
                "split": row["split"],
                "file": Path(row["source_file"]).name,
                "row_group": row["source_row_group"],
                "row": row["source_row"],
                "annotator_id": row["annotator_id"],
            },
        }

    def _image_meta(self, row: Row, side: str, facts: ImageFacts) -> dict[str, Any]:
        said = {key: value for key, value in facts._asdict().items() if key != "size_bytes"}
        meta = {"image_uid": row[f"{side}_uid"], **said}
        return meta | ({"source_sha256": row[f"{side}_sha256"]} if self.encoding.changes else {})

    def _extension(self) -> str:
        """The one extension of all images: that of their common format, or `jpg` when formats are mixed."""
        found = self._connection.execute(query_text("export/formats"), {"resize_px": self.encoding.resize_px})
        formats = {self.encoding.format_of(name, shrinks) for name, shrinks in found.fetchall()}
        if len(formats) != 1:
            return shards.MIXED_EXTENSION
        return shards.IMAGE_EXTENSIONS.get(formats.pop(), shards.MIXED_EXTENSION)


def content_sha256(pairs: SelectedPairs, kind: str, rows: Iterable[Row]) -> str:
    """Hex sha256 of all that decides the bytes of so many samples: how images are encoded, and each one's words."""
    digest = hashlib.sha256(json.dumps([kind, pairs.extension, pairs.encoding.stated()]).encode())
    for row in rows:
        meta = pairs.sample_meta(row, tuple(facts_of(row, side) for side in SIDES))
        digest.update(json.dumps([meta, row["prompt"]]).encode())
    return digest.hexdigest()


def location_of(row: Row, side: str) -> Location:
    """Where the bytes of one side's image lie in the source."""
    return Location(row[f"{side}_file"], row[f"{side}_row_group"], row[f"{side}_row"], row[f"{side}_side"])


def facts_of(row: Row, side: str) -> ImageFacts:
    """What the run's tables say of one side's image."""
    return ImageFacts(*(row[f"{side}_{key}"] for key in ImageFacts._fields))


def key_of(row: Row) -> str:
    """The pair's rank, zero-padded."""
    return f"{row['rank']:0{shards.KEY_DIGITS}d}"
