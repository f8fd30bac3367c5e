"""`curate review`: people judge pairs blind, on a page that this machine alone can open.

The page never learns which model drew a picture: it knows the number of a pair, its prompt, and two pictures by side,
encoded anew so that nothing of their files is left. Every judgement is on the disk before the next pair is shown.
"""

import io
import json
import math
import sys
import threading
from collections import OrderedDict
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import duckdb
from markupsafe import Markup

from curate.database.connection import connect_views
from curate.database.queries import query_text
from curate.errors import RunError, UsageError, nearest
from curate.pages.pictures import originals
from curate.report.browse import HOST, Answer, BadRequestError, Server, make_handler
from curate.report.charts import PALETTES
from curate.report.page import CURATE, content_policy, environment
from curate.review.judgements import CHOICES, Judgement, Log, check_reviewer, left_side, shown_order
from curate.review.report import LOGS, write_judgements
from curate.sources.images import Decoded, Rejected, decode
from curate.storage.run import Run
from curate.terminal.progress import say

PICTURES_KEPT = 32
SIDES = ("left", "right")


@dataclass(frozen=True)
class ReviewOptions:
    """models: whose pictures; none: all pairs. limit: how many pairs, the first of the order by seed."""

    reviewer: str
    models: tuple[str, ...] = ()
    limit: int | None = None
    seed: int = 0
    port: int = 8766
    as_json: bool = False  # then stdout is for one document alone


def review_pairs(run: Run, models: tuple[str, ...], limit: int | None, seed: int) -> list[dict[str, Any]]:
    """Rows of review_pairs.sql in the order of the review. Raises: RunError."""
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

    def answer(self, target: str) -> Answer:
        """The answer to a GET. Raises BadRequestError."""
        path = urlsplit(target).path
        if path == "/":
            return Answer(self.page.encode(), "text/html; charset=utf-8", policy=self.policy)
        if path == "/state":
            with self.lock:
                return self._state()
        match path.split("/"):
            case ["", "picture", place, side] if place.isdecimal() and len(place) < 10 and side in SIDES:
                return self._picture(int(place), side)
        return Answer(b"no such page", status=404)

    def take(self, target: str, body: bytes) -> Answer:
        """The answer to a POST: the state after it. Raises BadRequestError."""
        try:
            sent = dict(json.loads(body))
        except (ValueError, TypeError) as error:
            raise BadRequestError("a JSON object is needed") from error
        with self.lock:
            place = self._place()
            if target == "/undo":
                self.log.undo()
            elif target == "/judge" and place is not None and sent.get("place") == place:
                self.log.judge(self._judgement(place, sent))
                if self._place() is None:
                    write_judgements(self.run)
            elif target != "/judge":
                return Answer(b"no such page", status=404)
            return self._state()  # of an answer to another pair than the one shown, nothing is taken

    def _judgement(self, place: int, sent: dict[str, Any]) -> Judgement:
        choice, seconds = sent.get("choice"), sent.get("seconds")
        if choice not in CHOICES:
            raise BadRequestError(f"choice: one of {', '.join(CHOICES)}")
        if not isinstance(seconds, int | float) or not math.isfinite(seconds) or seconds < 0:
            raise BadRequestError("seconds: a number from 0")
        pair_id = self.pairs[place]["pair_id"]
        return Judgement(pair_id, place, self._left(place), choice, round(float(seconds), 3))

    def _left(self, place: int) -> int:
        return left_side(self.options.seed, self.options.reviewer, self.pairs[place]["pair_id"])

    def _place(self) -> int | None:
        """The first pair that is not judged."""
        judged = {one.pair_id for one in self.log.judged}
        return next((place for place, pair in enumerate(self.pairs) if pair["pair_id"] not in judged), None)

    def _state(self) -> Answer:
        """What the page shows. `ahead`: the pair that probably comes next, so that its pictures are ready."""
        place, total = self._place(), len(self.pairs)
        judged = {one.pair_id for one in self.log.judged}
        done = sum(pair["pair_id"] in judged for pair in self.pairs)
        state: dict[str, Any] = {"done": done, "total": total, "place": place, "undo": bool(self.log.judged)}
        if place is not None:
            state |= {"prompt": self.pairs[place]["prompt"], "ahead": place + 1 if place + 1 < total else None}
        return Answer(json.dumps(state).encode(), "application/json")

    def _picture(self, place: int, side: str) -> Answer:
        if place >= len(self.pairs):
            return Answer(b"no such picture", status=404)
        image = self._left(place) if side == "left" else 1 - self._left(place)
        with self.lock:
            picture = self._encoded(self.pairs[place][f"image_{image}_uid"])
        if isinstance(picture, Rejected):
            return Answer(b"this picture can no longer be read", status=404)  # why might tell where it lies
        return Answer(picture, "image/png")

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
    script = (CURATE / "review/review.js").read_text(encoding="utf-8")
    style = "".join((CURATE / name).read_text(encoding="utf-8") for name in ("report/report.css", "review/review.css"))
    page = environment().get_template("review/review.html").render(
        palettes=PALETTES, style=Markup(style), script=Markup(script)
    )  # fmt: skip
    policy = content_policy([script], live=True) + "; frame-ancestors 'none'"
    return Sitting(run, options, pairs, log, connect_views(run, rankings=False), page, policy)


def make_server(sitting: Sitting) -> Server:
    """A server bound to 127.0.0.1, ready to serve; port 0 takes a free one. Raises: UsageError."""
    bound: list[int] = []
    port = sitting.options.port
    try:
        server = Server(port, make_handler(sitting.answer, lambda: bound[0], sitting.take))
    except OSError as error:
        raise UsageError(f"--port {port}: {error.strerror}; choose another, or 0 for a free one") from error
    bound.append(server.server_address[1])
    return server


def review(run: Run, options: ReviewOptions) -> dict[str, Any]:
    """Serve until Ctrl-C, then write all judgements; the counts. Raises: UsageError, RunError, WriteError."""
    sitting = open_sitting(run, options)
    with closing(sitting.log), make_server(sitting) as server, suppress(KeyboardInterrupt):
        server.start()
        say(
            f"{options.reviewer}: {len(sitting.log.judged):,} of {len(sitting.pairs):,} pairs are judged; "
            "every judgement is kept at once; end with Ctrl-C"
        )
        address = f"http://{HOST}:{server.server_address[1]}/"
        print(address, file=sys.stderr if options.as_json else sys.stdout, flush=True)
        server.wait()
    written = write_judgements(run)
    judged = len(sitting.log.judged)
    return {
        "reviewer": options.reviewer,
        "judged": judged,
        "pairs": len(sitting.pairs),
        "manifest": None if written is None else str(written),
    }
