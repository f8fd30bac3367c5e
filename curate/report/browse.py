"""`curate browse`: the page of a ranking served on this machine, its gallery by pages over every pair.

It writes nothing but the tags that people give pairs (tags.py).
"""

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

from curate.database.connection import Rows, create_tags_view, fetch, first_line, query_rows
from curate.errors import QueryError
from curate.pages.pictures import picture_places, thumbnails
from curate.pages.server import Server, html, page_app
from curate.rank.rankings import ranking_settings
from curate.report.figures import figures
from curate.report.gallery import SIDES, Ranking, card, count_steps, open_ranking, orders, pair_rows
from curate.report.page import PAGE_PAIRS, Gallery, render_card, report_page
from curate.report.stage import page_values
from curate.report.tags import is_tag, set_tag, tags_of
from curate.sources.images import Rejected
from curate.storage.run import Run
from curate.terminal.progress import say

MOST_PAGE_PAIRS = 200
MOST_FILTER_CHARACTERS = 1000
PICTURE_PX = 512
LARGE_PX = 2048
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
    """Everything that answers are made of. names: the run's rankings, the one of the page first."""

    run: Run
    names: list[str]
    page: str
    policy: str
    pictures: Pictures
    opened: dict[str, Ranking]
    lock: threading.Lock = field(default_factory=threading.Lock)

    def ranking(self, name: str) -> Ranking:
        """One with a cursor of its own: DuckDB connections are not shared between threads. Raises: HTTPException."""
        if name not in self.names:
            raise HTTPException(400, f"name: one of {', '.join(self.names)}")
        with self.lock:
            if name not in self.opened:
                say(f"opening ranking '{name}', too")
                self.opened[name] = open_ranking(self.run, name)
        return replace(self.opened[name], connection=self.opened[name].connection.cursor())

    def show(self, request: Request) -> Response:
        """The page itself."""
        return html(self.page, self.policy)

    def pairs(self, request: Request) -> Response:
        """Cards of some pairs in some order, and how many there are. Raises: HTTPException, duckdb.Error."""
        query = request.query_params
        ranking, order = self.ranking(query.get("name", self.names[0])), query.get("order", "best")
        for name in ("filter", "where"):
            if len(query.get(name, "")) > MOST_FILTER_CHARACTERS:
                raise HTTPException(400, f"{name}: at most {MOST_FILTER_CHARACTERS} characters")
        if order not in orders(ranking.scorers):
            raise HTTPException(400, f"order: one of {', '.join(orders(ranking.scorers))}")
        limit = _whole_number(query, "limit", PAGE_PAIRS, MOST_PAGE_PAIRS)
        offset = _whole_number(query, "offset", 0, ranking.pairs)
        create_tags_view(ranking.connection, self.run)
        try:
            rows, total = pair_rows(ranking, order, offset, limit, query.get("filter", ""), query.get("where", ""))
        except QueryError as error:
            raise HTTPException(400, first_line(error)) from error
        self._add(rows, ranking, query.get("beside", ""))
        self.pictures.expect(ranking.connection, [row[f"{side}_uid"] for row in rows for side in SIDES])
        return JSONResponse({"pairs": total, "cards": [render_card(card(row, ranking), live=True) for row in rows]})

    def _add(self, rows: Rows, ranking: Ranking, beside: str) -> None:
        """To each row its tags, and where the ranking `beside` has the pair."""
        ids = [row["pair_id"] for row in rows]
        tags, there = tags_of(self.run, ids), {}
        if beside in self.names:
            query = f"select pair_id, rank, selected from ranking_{beside} where pair_id in (select unnest($ids))"
            there = {row["pair_id"]: row for row in query_rows(ranking.connection, query, ids=ids)}
        for row in rows:
            found = there.get(row["pair_id"])
            where = (
                f"#{found['rank']:,}, {'selected' if found['selected'] else 'not selected'}" if found else "not ranked"
            )
            row |= {"tags": tags[row["pair_id"]], "there": f"{beside}: {where}" if beside in self.names else ""}

    def tag(self, sent: dict[str, Any]) -> Response:
        """Give a pair a tag, or take it away; the pair's tags after that. Raises: HTTPException, CurateError."""
        pair_id, tag, on = sent.get("pair_id"), sent.get("tag"), sent.get("on")
        if not isinstance(tag, str) or not is_tag(tag):
            raise HTTPException(400, "tag: letters, digits, '_', '.' and '-' only, at most 40")
        cursor = self.ranking(self.names[0]).connection
        if not fetch(cursor, "select 1 from pairs where pair_id = $id limit 1", {"id": str(pair_id)}):
            raise HTTPException(400, "pair_id: the run has no such pair")
        return JSONResponse({"tags": set_tag(self.run, str(pair_id), tag, bool(on))})

    def image(self, request: Request) -> Response:
        """A picture by its uid; `?large` as large as it is, to LARGE_PX. Raises: CurateError, duckdb.Error."""
        connection, uid = self.ranking(self.names[0]).connection, request.path_params["uid"]
        if "large" in request.query_params:
            _, picture = next(thumbnails(self.run, connection, [uid], LARGE_PX))
        else:
            picture = self.pictures.get(connection, uid)
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
    names = [name, *sorted(path.stem for path in run.rankings.glob("*.toml") if path.stem != name)]
    values = page_values(run, ranking, steps) | {
        "orders": orders(ranking.scorers, ranking.preferred_by),
        "rankings": names,
    }
    page, policy = report_page(drawn, Gallery({}), live=True, **values)
    browser = Browser(run, names, page, policy, Pictures(run), {name: ranking})
    get = {"/": browser.show, "/pairs": browser.pairs, "/image/{uid:path}": browser.image}
    return Server(page_app(get, post={"/tag": browser.tag}), port)


def browse(run: Run, name: str, port: int) -> None:
    """Serve until Ctrl-C. Raises: RunError, UsageError."""
    say(f"opening ranking '{name}' of {run.root}: {ranking_settings(run, name)['base_pairs']:,} pairs")
    server = make_server(run, name, port)
    with suppress(KeyboardInterrupt):
        say("serving; end with Ctrl-C")
        print(server.address, flush=True)  # noqa: T201
        server.serve_until_ctrl_c()
    say("ended")
