"""The selected pairs as samples: what each says in its `json`, and where its images' bytes lie."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import duckdb

from curate.database.connection import create_parquet_view, fetch, fetch_count
from curate.database.queries import query_text
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
    """What a sample says of an image, and what its place in a tar needs."""

    sha256: str
    size_bytes: int
    format: str
    width: int
    height: int


class SelectedPairs:
    """The selected pairs of one ranking, read from the run's tables as often as asked, never all at once.

    connection: has the run's views. seed: of the shuffle; None: in rank order.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, run: Run, name: str, seed: int | None) -> None:
        self.scorers: list[str] = run.summary()["scorers"]
        self.dataset: str = run.settings()["settings"]["manifest"]["name"]
        self._connection = connection
        create_parquet_view(connection, "ranking", (run.rankings / f"{name}.parquet").resolve())
        connection.execute(f"create temp table shard_order as {query_text('export/order')}", {"seed": seed}).fetchall()
        self.votes = bool(fetch(connection, "select count(strength) from pairs")[0][0])
        columns = connection.execute("select * from images limit 0").description
        self.measured = MEASURED in {column[0] for column in columns}

    def rows(self) -> Iterator[Row]:
        """One pair at a time, in the shards' order."""
        query = query_text("export/samples", scorer=self.scorers, side=list(SIDES))
        if not self.measured:  # a run made before images were measured
            for side in SIDES:
                query = query.replace(f"{side}.size_bytes as", "null::bigint as")
        for first in range(0, self.count(), PAIRS_JOINED_TOGETHER):
            places = {"first": first, "end": first + PAIRS_JOINED_TOGETHER}
            for batch in self._connection.sql(query, params=places).to_arrow_reader(ROWS_READ_TOGETHER):
                yield from batch.to_pylist()

    def close(self) -> None:
        """Nothing more is read: the database gives back its memory."""
        self._connection.close()

    def count(self) -> int:
        """How many there are."""
        return fetch_count(self._connection, "shard_order")

    def formats(self) -> set[str]:
        """What their images are encoded in."""
        return {name for (name,) in self._connection.execute(query_text("export/formats")).fetchall()}


def common_extension(formats: set[str]) -> str:
    """The one extension of all members: the images' common format, or `jpg` when formats are mixed."""
    if len(formats) != 1:
        return shards.MIXED_EXTENSION
    return shards.IMAGE_EXTENSIONS.get(next(iter(formats)), shards.MIXED_EXTENSION)


def location_of(row: Row, side: str) -> Location:
    """Where the bytes of one side's image lie in the source."""
    return Location(row[f"{side}_file"], row[f"{side}_row_group"], row[f"{side}_row"], row[f"{side}_side"])


def facts_of(row: Row, side: str, new_facts: dict[Location, ImageFacts] | None = None) -> ImageFacts:
    """What the run's tables say of one side's image, or `new_facts` of it as it will be written."""
    if new_facts is not None:
        return new_facts[location_of(row, side)]
    return ImageFacts(*(row[f"{side}_{key}"] for key in ImageFacts._fields))


def key_of(row: Row) -> str:
    """The pair's rank, zero-padded."""
    return f"{row['rank']:0{shards.KEY_DIGITS}d}"


def sample_meta(
    row: Row, facts: tuple[ImageFacts, ...], dataset: str, scorers: list[str], encoded: bool
) -> dict[str, Any]:
    """The `json` of a sample. facts: of the preferred and the rejected image as the shard holds them."""
    return {
        "pair_id": row["pair_id"],
        "prompt_id": row["prompt_id"],
        "quality": row["quality"],
        "rank": row["rank"],
        **({} if row["strength"] is None else {"strength": row["strength"]}),
        "scores": {s: {side: row[f"{s}_{side}"] for side in SIDES} for s in scorers},
        **{side: _image_meta(row, side, of, encoded) for side, of in zip(SIDES, facts, strict=True)},
        "source": {
            "dataset": dataset,
            "split": row["split"],
            "file": Path(row["source_file"]).name,
            "row_group": row["source_row_group"],
            "row": row["source_row"],
            "annotator_id": row["annotator_id"],
        },
    }


def _image_meta(row: Row, side: str, facts: ImageFacts, encoded: bool) -> dict[str, Any]:
    meta = {
        "image_uid": row[f"{side}_uid"],
        "sha256": facts.sha256,
        "format": facts.format,
        "width": facts.width,
        "height": facts.height,
    }
    return meta | ({"source_sha256": row[f"{side}_sha256"]} if encoded else {})
