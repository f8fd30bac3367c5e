"""`curate review`: people judge pairs blind, on a page that this machine alone can open, unless told otherwise.

The page never learns which model drew a picture: it knows the number of a pair, its prompt, and two pictures by side,
encoded anew so that nothing of their files is left. Every judgement is on the disk before the next pair is shown.
"""

import io
import math
import secrets
import sys
import threading
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import duckdb
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from curate.database.connection import connect_views
from curate.database.queries import query_text
from curate.errors import RunError, nearest
from curate.pages.pictures import originals
from curate.pages.server import HOST, Server, html, page_app
from curate.pages.template import render_page
from curate.review.judgements import CHOICES, Judgement, Log, check_reviewer, left_side, shown_order
from curate.review.report import LOGS, write_judgements
from curate.sources.images import Decoded, Rejected, decode
from curate.storage.run import Run
from curate.terminal.progress import say

PICTURES_KEPT = 32
SIDES = ("left", "right")
GUIDANCE = "Which picture shows what the words say? If both do, which looks better? If neither does, both are bad."


@dataclass(frozen=True)
class ReviewOptions:
    """models: whose pictures; none: all pairs. limit: how many pairs, the first of the order by seed.

    host: another than 127.0.0.1 lets other machines ask, with a token. guidance: what judges are to look at.
    """

    reviewer: str
    models: tuple[str, ...] = ()
    limit: int | None = None
    seed: int = 0
    port: int = 8766
    host: str = HOST
    guidance: str | None = None
    as_json: bool = False  # then stdout is for one document alone


def review_pairs(run: Run, models: tuple[str, ...], limit: int | None, seed: int) -> list[dict[str, Any]]:
    """Rows of sql/pairs.sql in the order of the review. Raises: RunError."""
    run.summary()
    connection = connect_views(run, rankings=False)
    table = connection.sql(query_text("review/pairs"), params={"models": list(models)}).to_arrow_table()
    rows = {row["pair_id"]: row for row in table.to_pylist()}
    if not rows:
        known = [name for row in connection.sql("select distinct image_0_model from pairs").fetchall() for name in row]
        wanted = nearest(models[0], [name for name in known if name]) if models else ""
        raise RunError(f"{run.root} has no pair of two different models to review{wanted}")
    return [rows[pair_id] for pair_id in shown_order(list(rows), seed)[:limit]]


@dataclass
class Sitting:
    """One reviewer's review: what is shown next, and what comes of an answer."""

    run: Run
    options: ReviewOptions
    pairs: list[dict[str, Any]]
    log: Log
    connection: duckdb.DuckDBPyConnection
    page: str
    policy: str
    pictures: OrderedDict[str, bytes | Rejected] = field(default_factory=OrderedDict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def show(self, request: Request) -> Response:
        """The page itself."""
        return html(self.page, self.policy)

    def state(self, request: Request) -> Response:
        """What the page shows."""
        with self.lock:
            return self._state()

    def judge(self, sent: dict[str, Any]) -> Response:
        """Take a judgement of the pair that is shown, of no other; the state after it. Raises: HTTPException."""
        with self.lock:
            places = self._open_places()
            if places and sent.get("place") == places[0]:
                self.log.judge(self._judgement(places[0], sent))
                if len(places) == 1:
                    write_judgements(self.run)
            return self._state()

    def undo(self, sent: dict[str, Any]) -> Response:
        """Take back the last judgement; the state after it."""
        with self.lock:
            self.log.undo()
            return self._state()

    def picture(self, request: Request) -> Response:
        """One side of a pair."""
        place, side = request.path_params["place"], request.path_params["side"]
        if side not in SIDES or not place.isdecimal() or len(place) > 9 or int(place) >= len(self.pairs):
            return PlainTextResponse("no such picture", 404)
        left = self._left(int(place))
        image = left if side == "left" else 1 - left
        with self.lock:
            picture = self._encoded(self.pairs[int(place)][f"image_{image}_uid"])
        if isinstance(picture, Rejected):
            return PlainTextResponse("this picture can no longer be read", 404)  # why might tell where it lies
        return Response(picture, media_type="image/png")

    def _judgement(self, place: int, sent: dict[str, Any]) -> Judgement:
        choice, seconds = sent.get("choice"), sent.get("seconds")
        if choice not in CHOICES:
            raise HTTPException(400, f"choice: one of {', '.join(CHOICES)}")
        if not isinstance(seconds, int | float) or not math.isfinite(seconds) or seconds < 0:
            raise HTTPException(400, "seconds: a number from 0")
        pair_id = self.pairs[place]["pair_id"]
        return Judgement(pair_id, place, self._left(place), choice, round(float(seconds), 3))

    def _left(self, place: int) -> int:
        return left_side(self.options.seed, self.options.reviewer, self.pairs[place]["pair_id"])

    def _open_places(self) -> list[int]:
        """Places of the pairs that are not judged; the first is shown."""
        judged = {one.pair_id for one in self.log.judged}
        return [place for place, pair in enumerate(self.pairs) if pair["pair_id"] not in judged]

    def _state(self) -> Response:
        """What the page shows. `ahead`: the pair that probably comes next, so that its pictures are ready."""
        places, total = self._open_places(), len(self.pairs)
        place = places[0] if places else None
        done = total - len(places)
        state: dict[str, Any] = {"done": done, "total": total, "place": place, "undo": bool(self.log.judged)}
        if place is not None:
            state |= {"prompt": self.pairs[place]["prompt"], "ahead": place + 1 if place + 1 < total else None}
        return JSONResponse(state)

    def _encoded(self, uid: str) -> bytes | Rejected:
        """The picture as a PNG without anything else of its file."""
        if uid not in self.pictures:
            data = originals(self.run, self.connection, [uid])[uid]
            picture = data if isinstance(data, Rejected) else decode(data)
            self.pictures[uid] = _png(picture) if isinstance(picture, Decoded) else picture
            while len(self.pictures) > PICTURES_KEPT:
                self.pictures.popitem(last=False)
        return self.pictures[uid]


def _png(picture: Decoded) -> bytes:
    buffer = io.BytesIO()
    picture.image.save(buffer, "PNG", compress_level=1, icc_profile=None)  # a profile would tell who drew it
    return buffer.getvalue()


def open_sitting(run: Run, options: ReviewOptions) -> Sitting:
    """Raises: UsageError, RunError."""
    check_reviewer(options.reviewer)
    pairs = review_pairs(run, options.models, options.limit, options.seed)
    log = Log(run.root / LOGS / f"{options.reviewer}.jsonl", options.reviewer, options.seed)
    page, policy = render_page("review", live=True, guidance=options.guidance or GUIDANCE)
    return Sitting(run, options, pairs, log, connect_views(run, rankings=False), page, policy)


def make_server(sitting: Sitting) -> Server:
    """A server ready to serve; port 0 takes a free one. Raises: UsageError."""
    options = sitting.options
    token = None if options.host in (HOST, "localhost") else secrets.token_urlsafe(24)
    get = {"/": sitting.show, "/state": sitting.state, "/picture/{place}/{side}": sitting.picture}
    app = page_app(get, post={"/judge": sitting.judge, "/undo": sitting.undo}, token=token)
    return Server(app, options.port, options.host, token)


def review(run: Run, options: ReviewOptions) -> dict[str, Any]:
    """Serve until Ctrl-C, then write all judgements; the counts. Raises: UsageError, RunError, WriteError.

    >>> from curate.storage import open_run
    >>> review(open_run("run/evaluation"), ReviewOptions("anna"))["judged"]  # doctest: +SKIP
    12
    """
    sitting = open_sitting(run, options)
    try:
        with suppress(KeyboardInterrupt):
            server = make_server(sitting)
            say(
                f"{options.reviewer}: {len(sitting.log.judged):,} of {len(sitting.pairs):,} pairs are judged; "
                "every judgement is kept at once; end with Ctrl-C"
            )
            print(server.address, file=sys.stderr if options.as_json else sys.stdout, flush=True)
            server.serve_until_ctrl_c()
    finally:
        with sitting.lock:  # an answer that the server no longer waited for may be under way
            sitting.log.close()
    written = write_judgements(run)
    judged = len(sitting.log.judged)
    return {
        "reviewer": options.reviewer,
        "judged": judged,
        "pairs": len(sitting.pairs),
        "manifest": None if written is None else str(written),
    }
