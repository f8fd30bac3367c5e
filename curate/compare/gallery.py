"""Which pictures the page of a comparison shows, how large, and the data that its script draws from."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

import duckdb
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from curate.compare.statistics.pictures import Pictures
from curate.pages.pictures import data_uri, picture_places, thumbnails
from curate.sources.images import Rejected
from curate.storage.run import Run

SIDES_PX = (256, 192, 144, 112, 88)
TRIED = 24  # pictures that the size of the others is guessed from
FILLED = 0.92  # of the room, by that guess
MOST_FURTHER = 4000  # pictures up to which a prompt's further drawings are shown: each takes milliseconds to shrink
DIGITS = 5

Row = list[int | None]  # one picture of each model, from one drawing


@dataclass
class Gallery:
    """order: prompts by importance, the most telling first. rows: of each prompt. shown: picture -> data URI.

    wanted: how many pictures were asked for; missing: pictures that can no longer be read, with the reason.
    """

    order: list[int]
    rows: list[list[Row]]
    side_px: int = SIDES_PX[0]
    shown: dict[int, str] = field(default_factory=dict)
    missing: dict[int, str] = field(default_factory=dict)
    wanted: int = 0


def make_gallery(
    run: Run,
    connection: duckdb.DuckDBPyConnection,
    pictures: Pictures,
    judges: list[str],
    prompts: int,
    room_bytes: int,
) -> Gallery:
    """As many pictures as fit into `room_bytes`: of each prompt one drawing, then a second of each, and so on.

    judges: the scorers that say which prompts tell most. prompts: of how many, the most telling first.
    """
    gallery = Gallery(by_importance(pictures, judges), drawing_rows(pictures))
    rows = [gallery.rows[prompt] for prompt in gallery.order[:prompts]]
    queue = [one for turn in zip_longest(*rows, fillvalue=[]) for row in turn for one in row if one is not None]
    gallery.wanted = len(queue)
    if not queue:
        return gallery
    firsts = sum(one is not None for own in rows for one in own[0])
    gallery.side_px, mean_bytes = _size(run, connection, pictures, queue, firsts, room_bytes)
    most = min(int(FILLED * room_bytes / mean_bytes), max(firsts, MOST_FURTHER))
    chosen = queue[: max(len(pictures.models), most)]
    for picture, small in _read(run, connection, pictures, chosen, gallery.side_px):
        if isinstance(small, Rejected):
            gallery.missing[picture] = small.detail
        else:
            gallery.shown[picture] = data_uri(small)
    for picture in reversed(chosen):  # the guess was too low: the least telling go
        if sum(map(len, gallery.shown.values())) <= room_bytes:
            break
        gallery.shown.pop(picture, None)
    return gallery


def by_importance(pictures: Pictures, judges: list[str]) -> list[int]:
    """Prompts, those first on which the first model differs most from the last, over the scorers' standardised changes.

    The best and the worst cases stand first alike.
    """
    count = len(pictures.prompts)
    total = np.zeros(count)
    ours = pictures.couple == pictures.couples.index((0, len(pictures.models) - 1))
    prompt = pictures.prompt[pictures.one][ours]
    for scores in map(pictures.scores.__getitem__, judges):
        change = (scores[pictures.one] - scores[pictures.two])[ours]
        known = np.isfinite(change)
        sums = np.bincount(prompt[known], change[known], count)
        sizes = np.bincount(prompt[known], minlength=count)
        mean = np.divide(sums, sizes, out=np.zeros(count), where=sizes > 0)
        total += mean / (mean.std() or 1.0)
    return [int(one) for one in np.argsort(-np.abs(total), kind="stable")]


def drawing_rows(pictures: Pictures) -> list[list[Row]]:
    """Of each prompt its drawings: pictures that share a pair, directly or by way of others, stand in one row."""
    count = len(pictures.prompt)
    links = coo_array((np.ones(len(pictures.one)), (pictures.one, pictures.two)), shape=(count, count))
    label = connected_components(links, directed=False)[1]
    found: list[dict[int, list[list[int]]]] = [{} for _ in pictures.prompts]
    for picture, (prompt, model, drawing) in enumerate(zip(pictures.prompt, pictures.model, label, strict=True)):
        found[prompt].setdefault(int(drawing), [[] for _ in pictures.models])[model].append(picture)
    return [[list(row) for by_model in drawings.values() for row in zip_longest(*by_model)] for drawings in found]


def _size(
    run: Run, connection: duckdb.DuckDBPyConnection, pictures: Pictures, queue: list[int], firsts: int, room_bytes: int
) -> tuple[int, float]:
    """The largest side at which the first row of every prompt fits, by a few pictures, and their mean size."""
    tried = queue[:: max(1, len(queue) // TRIED)][:TRIED]
    mean = 1.0
    for side_px in SIDES_PX:
        small = [one for _, one in _read(run, connection, pictures, tried, side_px) if not isinstance(one, Rejected)]
        mean = float(np.mean([len(data_uri(one)) for one in small])) if small else 1.0
        if mean * firsts <= FILLED * room_bytes:
            return side_px, mean
    return SIDES_PX[-1], mean


def _read(
    run: Run, connection: duckdb.DuckDBPyConnection, pictures: Pictures, chosen: list[int], side_px: int
) -> Iterator[tuple[int, bytes | Rejected]]:
    """Thumbnails in the order in which they lie in the source, so that no row group is read twice.

    An image that occurs under two prompts, or by two models, is read once and is the picture of each.
    """
    numbers: dict[str, list[int]] = {}
    for one in chosen:
        numbers.setdefault(pictures.uids[one], []).append(one)
    places = picture_places(connection, list(numbers))
    for uid, small in thumbnails(run, connection, sorted(numbers, key=lambda uid: places[uid]), side_px):
        yield from ((one, small) for one in numbers[uid])


def page_data(pictures: Pictures, scorers: list[str], gallery: Gallery, stored: dict[int, int]) -> dict[str, Any]:
    """What the script draws from: prompts in order of importance, each picture as [where it is stored, *scores]."""
    table = np.stack([pictures.scores[scorer] for scorer in scorers], axis=1)
    cells = {
        one: [stored.get(one), *(float(f"{value:.{DIGITS}g}") if np.isfinite(value) else None for value in table[one])]
        for rows in gallery.rows
        for row in rows
        for one in row
        if one is not None
    }
    return {
        "models": pictures.models,
        "scorers": scorers,
        "prompts": [
            {
                "text": pictures.prompts[prompt],
                "category": pictures.categories[prompt],
                "rows": [[None if one is None else cells[one] for one in row] for row in gallery.rows[prompt]],
            }
            for prompt in gallery.order
        ],
    }
