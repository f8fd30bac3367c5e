"""`curate browse`: the page of a ranking served on this machine, its gallery by pages over every pair; read only."""

import threading
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import duckdb
from starlette.datastructures import QueryParams
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from curate.database.queries import query_text
from curate.pages.pictures import picture_places, thumbnails
from curate.pages.server import Server, html, page_app
from curate.report.figures import figures
from curate.report.gallery import SIDES, Ranking, card, count_steps, open_ranking, orders, pair_rows
from curate.report.page import render_card, report_page
from curate.report.stage import page_values
from curate.sources.images import Rejected
from curate.storage.run import Run
from curate.terminal.progress import say

PAGE_PAIRS = 24
MOST_PAGE_PAIRS = 200
MOST_FILTER_CHARACTERS = 1000
PICTURE_PX = 512
PICTURES_KEPT = 2000


@dataclass
class Pictures:
    """Thumbnails of the source's pictures, the latest kept in memory; those of one page are read together."""

    run: Run
    kept: OrderedDict[str, bytes | Rejected] = field(default_factory=OrderedDict)
    page: dict[str, Any] = field(default_factory=dict)  # uid -> its place, of the pairs asked for last
    lock: threading.Lock = field(default_factory=threading.Lock)

    def expect(self, connection: duckdb.DuckDBPyConnection, uids: list[str]) -> None:
        """Say which pictures will be asked for next."""
        self.page = picture_places(connection, uids)

    def get(self, connection: duckdb.DuckDBPyConnection, uid: str) -> bytes | Rejected:
        """WebP, or why there is none. One row group of the source is read once for all its pictures on the page."""
        with self.lock:
            if uid not in self.kept:
                place, page = self.page.get(uid), self.page
                near = [other for other, there in page.items() if place is not None and there[:2] == place[:2]]
                self.kept.update(thumbnails(self.run, connection, near or [uid], PICTURE_PX))
            self.kept.move_to_end(uid)
            answer = self.kept[uid]
            while len(self.kept) > PICTURES_KEPT:
                self.kept.popitem(last=False)
        return answer


@dataclass
class Browser:
    """Everything that answers are made of."""

    opened: Ranking
    pictures: Pictures
    page: str
    policy: str

    def ranking(self) -> Ranking:
        """The ranking with a cursor of its own: DuckDB connections are not shared between threads."""
        return replace(self.opened, connection=self.opened.connection.cursor())

    def show(self, request: Request) -> Response:
        """The page itself."""
        return html(self.page, self.policy)

    def pairs(self, request: Request) -> Response:
        """Cards of some pairs in some order, and how many there are. Raises: HTTPException, duckdb.Error."""
        ranking, query = self.ranking(), request.query_params
        words, order = query.get("filter", ""), query.get("order", "best")
        if len(words) > MOST_FILTER_CHARACTERS:
            raise HTTPException(400, f"filter: at most {MOST_FILTER_CHARACTERS} characters")
        if order not in orders(ranking.scorers):
            raise HTTPException(400, f"order: one of {', '.join(orders(ranking.scorers))}")
        limit = _whole_number(query, "limit", PAGE_PAIRS, MOST_PAGE_PAIRS)
        offset = _whole_number(query, "offset", 0, ranking.pairs)
        rows = pair_rows(ranking, order, offset, limit, words)
        counted = ranking.connection.execute(query_text("report/gallery_count"), {"filter": words}).fetchall()
        self.pictures.expect(ranking.connection, [row[f"{side}_uid"] for row in rows for side in SIDES])
        return JSONResponse({"pairs": counted[0][0], "cards": [render_card(card(row, ranking)) for row in rows]})

    def image(self, request: Request) -> Response:
        """A picture by its uid. Raises: CurateError, duckdb.Error."""
        picture = self.pictures.get(self.ranking().connection, request.path_params["uid"])
        if isinstance(picture, Rejected):
            return PlainTextResponse(picture.detail, 404)
        return Response(picture, media_type="image/webp")


def _whole_number(query: QueryParams, name: str, default: int, most: int) -> int:
    text = query.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 19 and int(text) <= most):
        raise HTTPException(400, f"{name}: a whole number from 0 to {most}")
    return int(text)


def make_server(run: Run, name: str, port: int) -> Server:
    """A server bound to 127.0.0.1, ready to serve; port 0 takes a free one. Raises: RunError, UsageError."""
    ranking = open_ranking(run, name)
    steps = count_steps(run.summary(), ranking.settings)
    drawn = figures(ranking, steps)
    values = page_values(run, ranking, steps)
    page, policy = report_page(drawn, None, orders=orders(ranking.scorers), page_pairs=PAGE_PAIRS, **values)
    browser = Browser(ranking, Pictures(run), page, policy)
    app = page_app({"/": browser.show, "/pairs": browser.pairs, "/image/{uid:path}": browser.image})
    return Server(app, port)


def browse(run: Run, name: str, port: int) -> None:
    """Serve until Ctrl-C. Raises: RunError, UsageError."""
    server = make_server(run, name, port)
    with suppress(KeyboardInterrupt):
        say(f"serving ranking '{name}' of {run.root}; end with Ctrl-C")
        print(server.address, flush=True)  # noqa: T201
        server.serve_until_ctrl_c()
    say("ended")
