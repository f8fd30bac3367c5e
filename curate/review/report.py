"""What people judged: a data set of pairs like any other, how far they agree, and whose pictures they prefer."""

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import tomli_w

from curate.compare.statistics.bootstrap import RESAMPLES, clustered_interval
from curate.compare.statistics.win_rates import sign_test
from curate.database.connection import connect_views
from curate.database.queries import query_text
from curate.errors import RunError
from curate.pages.pictures import originals
from curate.review.judgements import Judgement, agreement, read_log
from curate.sources.images import Rejected
from curate.storage.run import Run
from curate.storage.tables import atomic_path, write_table, write_text
from curate.terminal.progress import say
from schemas.shards import IMAGE_EXTENSIONS
from schemas.tables import IMAGE_SIDES, REVIEWED_PAIRS

FOLDER, LOGS = "review", "review/log"
UNMAPPED = ("place", "left_side", "seconds", "both_bad")  # of the review, not of a data set of pairs

Rows = list[dict[str, Any]]


def all_judgements(run: Run) -> dict[str, list[Judgement]]:
    """By reviewer. Raises: RunError for a damaged log."""
    found = {path.stem: read_log(path)[1] for path in sorted((run.root / LOGS).glob("*.jsonl"))}
    return {name: judged for name, judged in found.items() if judged}


def _pairs(run: Run) -> dict[str, dict[str, Any]]:
    connection = connect_views(run, rankings=False)
    table = connection.sql(query_text("review/pairs"), params={"models": []}).to_arrow_table()
    category = "category" if "category" in connection.sql("from pairs limit 0").columns else "null"
    words = dict(connection.sql(f"select pair_id, {category} from pairs").fetchall())
    return {row["pair_id"]: row | {"category": words.get(row["pair_id"])} for row in table.to_pylist()}


def write_judgements(run: Run) -> Path | None:
    """review/judgements.parquet, its manifest and the pictures it names; the manifest's path, None without a judgement.

    Raises: RunError, SourceError, WriteError.
    """
    judged, pairs = all_judgements(run), _pairs(run)
    rows = [_row(name, one, _known(pairs, one, run)) for name, items in judged.items() for one in items]
    folder = run.root / FOLDER
    lost = _copy_pictures(run, folder, [pairs[one.pair_id] for items in judged.values() for one in items])
    rows = [row for row in rows if not lost & {row["image_0_uid"], row["image_1_uid"]}]
    if not rows:  # all were taken back, or none of their pictures is left
        for name in ("judgements.parquet", "manifest.toml"):
            (folder / name).unlink(missing_ok=True)
        return None
    write_table(pa.Table.from_pylist(rows, schema=REVIEWED_PAIRS), folder / "judgements.parquet", REVIEWED_PAIRS)
    write_text(_manifest(run, len(rows), sorted(judged)), folder / "manifest.toml")
    return folder / "manifest.toml"


def _known(pairs: dict[str, dict[str, Any]], judgement: Judgement, run: Run) -> dict[str, Any]:
    if judgement.pair_id not in pairs:
        raise RunError(f"pair {judgement.pair_id} was judged, and {run.root} has it no more; embed the same set again")
    return pairs[judgement.pair_id]


def _row(reviewer: str, judgement: Judgement, pair: dict[str, Any]) -> dict[str, Any]:
    side = judgement.preferred_side
    label = 0.5 if side is None else float(side == 0)
    shown = {"place": judgement.place, "left_side": judgement.left_side, "seconds": judgement.seconds}
    shown |= {"both_bad": judgement.choice == "both_bad"}
    names = ("prompt", "category", *(f"image_{one}_{what}" for one in IMAGE_SIDES for what in ("uid", "model")))
    paths = {f"image_{one}_path": _picture_name(pair, one) for one in IMAGE_SIDES}
    who = {"annotator_id": reviewer, "judgement_id": f"{reviewer} {judgement.pair_id}"}
    return {name: pair[name] for name in names} | paths | {"label_0": label, "label_1": 1 - label} | who | shown


def _picture_name(pair: dict[str, Any], side: int) -> str:
    """A uid may hold anything; a file's name is made of its hash."""
    extension = IMAGE_EXTENSIONS.get(pair[f"image_{side}_format"], "img")
    return f"images/{hashlib.sha256(pair[f'image_{side}_uid'].encode()).hexdigest()[:32]}.{extension}"


def _copy_pictures(run: Run, folder: Path, pairs: Rows) -> set[str]:
    """The source's own bytes, each picture once; those that are there stay. Returns the uids of those that are lost."""
    names = {pair[f"image_{side}_uid"]: _picture_name(pair, side) for pair in pairs for side in IMAGE_SIDES}
    missing = [uid for uid, name in names.items() if not (folder / name).exists()]
    lost = set()
    for uid, data in originals(run, connect_views(run, rankings=False), missing).items() if missing else ():
        if isinstance(data, Rejected):
            lost.add(uid)
            say(f"note: image {uid} was judged but can no longer be read ({data.detail}): its pairs are left out")
            continue
        with atomic_path(folder / names[uid]) as temporary:
            temporary.write_bytes(data)
    return lost


def _manifest(run: Run, rows: int, reviewers: list[str]) -> str:
    manifest = run.settings()["settings"].get("manifest", {})
    document: dict[str, Any] = {
        "name": f"{manifest.get('name', 'run')}_reviewed",
        "description": f"Judged blind by {', '.join(reviewers)}.",
        "default_split": "reviewed",
        "splits": {"reviewed": {"files": ["judgements.parquet"], "rows": rows}},
        "columns": {name: name for name in REVIEWED_PAIRS.names if name not in UNMAPPED},
    }
    return tomli_w.dumps(document | ({"sampled": manifest["sampled"]} if "sampled" in manifest else {}))


def review_report(run: Run) -> dict[str, Any]:
    """Reviewers, agreement, and who wins; the data set is written anew. Raises: RunError, SourceError, WriteError."""
    run.summary()
    judged = all_judgements(run)
    if not judged:
        raise RunError(f"nobody has reviewed {run.root} yet; run `curate review --run {run.root} --reviewer NAME`")
    manifest, pairs = write_judgements(run), _pairs(run)
    return {
        "reviewers": [_reviewer(name, items) for name, items in judged.items()],
        "agreement": agreement(judged),
        "verdicts": _verdicts([(pairs[one.pair_id], one) for items in judged.values() for one in items], _order(run)),
        "manifest": None if manifest is None else str(manifest),
    }


def _reviewer(name: str, judged: list[Judgement]) -> dict[str, Any]:
    choices = Counter(one.choice for one in judged)
    decided = choices["left"] + choices["right"]
    return {
        "reviewer": name,
        "judged": len(judged),
        "ties": choices["tie"],
        "both_bad": choices["both_bad"],
        "left_share": choices["left"] / decided if decided else None,  # far from a half: a habit, not a judgement
        "median_seconds": float(np.median([one.seconds for one in judged])),
    }


def _order(run: Run) -> list[str]:
    """The models as `train sample` was given them; nothing where it did not draw the pictures."""
    sampled = run.settings()["settings"].get("manifest", {}).get("sampled", {})
    return [model["name"] for model in sampled.get("models", [])]


def _verdicts(judged: list[tuple[dict[str, Any], Judgement]], order: list[str]) -> Rows:
    """Win rates of every two models, all reviewers together; intervals draw whole prompts."""
    judged = [(pair, one) for pair, one in judged if None not in (pair["image_0_model"], pair["image_1_model"])]
    place = {name: number for number, name in enumerate(order)}
    by_place = {pair["pair_id"]: sorted(_models(pair), key=lambda one: (place.get(one, 0), one)) for pair, _ in judged}
    found = []
    for one, other in dict.fromkeys(map(tuple, by_place.values())):
        here = [(pair, choice) for pair, choice in judged if by_place[pair["pair_id"]] == [one, other]]
        points = np.array([_points(pair, choice, one) for pair, choice in here])
        prompts, prompt = np.unique([pair["prompt_id"] for pair, _ in here], return_inverse=True)
        signs = np.sign(np.bincount(prompt, points - 0.5))
        low, high = clustered_interval(points, prompt.astype(np.int64), RESAMPLES)
        counts = [int((points == value).sum()) for value in (1.0, 0.5, 0.0)]
        rates = {"win_rate": float(points.mean()), "win_rate_low": low, "win_rate_high": high}
        sign = (int((signs > 0).sum()), int((signs < 0).sum()))
        found.append(
            {"model": one, "against": other, "judgements": len(here), "prompts": len(prompts)}
            | dict(zip(("wins", "ties", "losses"), counts, strict=True))
            | rates
            | {"sign_p_value": sign_test(*sign)}
        )
    return found


def _models(pair: dict[str, Any]) -> tuple[str, str]:
    return str(pair["image_0_model"]), str(pair["image_1_model"])


def _points(pair: dict[str, Any], judgement: Judgement, model: str) -> float:
    side = judgement.preferred_side
    return 0.5 if side is None else float(_models(pair)[side] == model)
