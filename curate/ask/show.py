"""`curate show`: all that a run knows of one pair or one image."""

import io
from typing import Any

import duckdb
from PIL import Image

from curate.database.connection import Rows, connect_views, query_rows
from curate.errors import RunError
from curate.pages.pictures import thumbnails
from curate.rank.rankings import ranking_settings
from curate.storage.run import Run
from curate.terminal.pictures import beside

MOST_PAIRS = 20
PICTURE_PX = 512


def show(run: Run, uid: str) -> dict[str, Any]:
    """A pair: its prompt, its judgement, both images with their scores, its place in each ranking, what left it out.

    An image: its facts, its scores, what left it out, and its first pairs. Raises: RunError for no such uid.
    """
    run.summary()
    connection = connect_views(run)
    pair = query_rows(connection, "from pairs where pair_id = $uid", uid=uid)
    if pair:
        return _pair(connection, run, pair[0])
    pairs = query_rows(
        connection,
        f"select pair_id from pairs where $uid in (image_0_uid, image_1_uid) order by pair_id limit {MOST_PAIRS}",
        uid=uid,
    )
    gone = _dropped(connection, uid)
    if not pairs and not gone:
        raise RunError(f"{run.root} has no pair or image '{uid}'; `curate sql` and `curate search` find their ids")
    return {"image": _image(connection, uid), "pairs": [row["pair_id"] for row in pairs], "dropped": gone}


def pictures(run: Run, found: dict[str, Any]) -> Image.Image | None:
    """The pictures of what `show` found, side by side, each at most PICTURE_PX; None when none can be read now."""
    uids = [image["image_uid"] for image in found.get("images", [found.get("image")])]
    read = thumbnails(run, connect_views(run, rankings=False), uids, PICTURE_PX)
    there = [Image.open(io.BytesIO(data)).convert("RGB") for _, data in read if isinstance(data, bytes)]
    return beside(there) if there else None


def _pair(connection: duckdb.DuckDBPyConnection, run: Run, pair: dict[str, Any]) -> dict[str, Any]:
    prompt = query_rows(connection, "select prompt from prompts where prompt_id = $uid", uid=pair["prompt_id"])
    uids = [pair["image_0_uid"], pair["image_1_uid"]]
    return {
        "pair": pair,
        "prompt": prompt[0]["prompt"] if prompt else None,
        "images": [_image(connection, uid, pair["prompt_id"]) for uid in uids],
        "rankings": [_place(connection, run, path.stem, pair["pair_id"]) for path in _rankings(run)],
        "dropped": [row for uid in (pair["pair_id"], *uids) for row in _dropped(connection, uid)],
    }


def _image(connection: duckdb.DuckDBPyConnection, uid: str, prompt_id: str | None = None) -> dict[str, Any]:
    """Its facts, and its scores by prompt, or with one prompt."""
    facts = "select columns(lambda c: c not like '%_embedding') from images where image_uid = $uid"
    with_prompt = "" if prompt_id is None else "and prompt_id = $prompt"
    scores = f"select * exclude (image_uid) from scores where image_uid = $uid {with_prompt} order by prompt_id"
    given = {"uid": uid} | ({} if prompt_id is None else {"prompt": prompt_id})
    found = query_rows(connection, facts, uid=uid)
    return {"image_uid": uid} | (found[0] if found else {}) | {"scores": query_rows(connection, scores, **given)}


def _place(connection: duckdb.DuckDBPyConnection, run: Run, name: str, pair_id: str) -> dict[str, Any]:
    """Where a ranking has the pair: `rank` is None where it is not ranked."""
    settings = ranking_settings(run, name)
    columns = "columns(lambda c: c in ('rank', 'percentile', 'quality', 'selected', 'passed_over'))"
    found = query_rows(connection, f"select {columns} from ranking_{name} where pair_id = $uid", uid=pair_id)
    of = {"ranking": name, "metric": settings["metric"], "pairs": settings["base_pairs"]}
    return of | (found[0] if found else {"rank": None, "selected": False})


def _dropped(connection: duckdb.DuckDBPyConnection, uid: str) -> Rows:
    """Each stage that left a pair or an image out, and why."""
    return query_rows(
        connection,
        "select stage, reason, detail from dropped where $uid in (pair_id, image_uid) order by stage, reason",
        uid=uid,
    )


def _rankings(run: Run) -> list[Any]:
    return sorted(run.rankings.glob("*.toml"))
