"""`curate compare`: which of two or more models wins, scorer by scorer, over a scored set of their pictures."""

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from curate.compare.headline import headline
from curate.compare.notes import notes
from curate.compare.page import write_page
from curate.compare.statistics.bootstrap import RESAMPLES, SEED, Resamples
from curate.compare.statistics.diversity import diversities
from curate.compare.statistics.noise import TIE_BAND, noise
from curate.compare.statistics.pictures import Pictures
from curate.compare.statistics.win_rates import standings, verdicts
from curate.database.connection import connect_views, create_view, fetch
from curate.database.queries import query_text
from curate.errors import RunError, nearest
from curate.storage.run import Run
from curate.storage.tables import write_text
from curate.terminal.text import json_text

CONFIDENCE = f"95 % percentile bootstrap over prompts, {RESAMPLES:,} resamples, seed {SEED}"


@dataclass(frozen=True)
class CompareOptions:
    """models: which, in the order of the report; none: all. against: the one that the others are measured by.

    gallery: how many prompts the page shows pictures of. tie_band: which part of the noise a difference must exceed.
    """

    models: tuple[str, ...] = ()
    against: str | None = None
    page: Path | None = None
    gallery: int = 2000
    tie_band: float = TIE_BAND


def compare(run: Run, options: CompareOptions | None = None) -> dict[str, Any]:
    """Compare the models' pictures; write compare.json and the page; return the report. Raises: RunError.

    >>> from curate.storage import open_run
    >>> report = compare(open_run("run/evaluation"))
    >>> {one["scorer"]: one["win_rate"] for one in report["verdicts"]}  # doctest: +ELLIPSIS
    {'clip': ...}
    """
    options = options or CompareOptions()
    summary, sampled = run.summary(), _sampled(run)
    scorers: list[str] = summary["scorers"]
    connection = connect_views(run, rankings=False)
    create_view(
        connection, "scored", query_text("database/scored", scorer=scorers, number=[], id=["prompt_id", "image_uid"])
    )
    names = _models(connection, run, sampled, options)
    pictures = _pictures(connection, run, scorers, names)
    chosen_by = {model["name"]: model.get("chosen_by", []) for model in sampled.get("models", [])}
    interested = {scorer for name in names for scorer in chosen_by.get(name, [])}
    scorers = sorted(scorers, key=lambda scorer: scorer in interested)
    draws = Resamples(len(pictures.prompts))
    noises = [noise(pictures, scorer, draws, options.tie_band) for scorer in scorers]
    categories = sorted({one for one in pictures.categories if one is not None})
    found = [
        asdict(verdict)
        for one in noises
        for category in (None, *categories)
        for verdict in verdicts(pictures, one, draws, chosen_by, category)
    ]
    report: dict[str, Any] = {
        "dataset": summary["dataset"],
        "models": names,
        "model": names[0],
        "against": names[-1],
        "pairs": len(pictures.one),
        "prompts": len(pictures.prompts),
        "confidence": CONFIDENCE,
        "scorers": scorers,
        "impartial": [scorer for scorer in scorers if scorer not in interested],
        "tie_band": options.tie_band,
        "noise": [{"scorer": one.scorer, "between": one.between, "sd": one.sd, "tie_band": one.band} for one in noises],
        "chosen_by": {name: chosen_by.get(name, []) for name in names},
        "verdicts": [item for item in found if item["category"] is None],
        "standings": [asdict(item) for one in noises for item in standings(pictures, one, draws, chosen_by)],
        "spreads": [asdict(item) for item in _spreads(connection, pictures, draws)],
        "categories": [item for item in found if item["category"] is not None],
        "faults": _faults(connection, names, sampled),
    }
    report |= {"headline": headline(report), "notes": notes(pictures, report)}
    write_text(json_text(report) + "\n", run.root / "compare.json")
    return report | write_page(run, report, pictures, options.page or run.root / "compare.html", options.gallery)


def _sampled(run: Run) -> dict[str, Any]:
    """How the pictures were drawn, where `train sample` drew them."""
    return dict(run.settings()["settings"].get("manifest", {}).get("sampled", {}))


def _models(
    connection: duckdb.DuckDBPyConnection, run: Run, sampled: dict[str, Any], options: CompareOptions
) -> list[str]:
    """The names to compare, the reference last. Raises: RunError where there are not two."""
    found = fetch(connection, query_text("compare/models"))
    seen = list(dict.fromkeys(name for row in found for name in row[:2] if name is not None))
    named = [model["name"] for model in sampled.get("models", [])]
    names = [name for name in named if name in seen] + [name for name in seen if name not in named]
    for given in (*options.models, *filter(None, [options.against])):
        if given not in names:
            raise RunError(f"no picture in {run.root} was drawn by '{given}'{nearest(given, names)}")
    if not names:
        raise RunError(
            f"the pairs of {run.root} do not say which model drew each image; map image_0_model and image_1_model"
        )
    if len(names) == 1:
        raise RunError(f"every picture in {run.root} was drawn by '{names[0]}': there is nothing to compare it with")
    chosen = list(dict.fromkeys(options.models)) or names
    if len(chosen) == 1 and options.against in (None, chosen[0]):
        chosen += [name for name in names if name not in chosen]
    reference = options.against or _base(sampled, chosen) or chosen[-1]
    return [*(name for name in chosen if name != reference), reference]


def _base(sampled: dict[str, Any], chosen: list[str]) -> str | None:
    """The model among `chosen` that another was trained from."""
    models = [model for model in sampled.get("models", []) if model["name"] in chosen]
    bases = {model["base"] for model in models if "base" in model}
    return next((model["name"] for model in models if model.get("source") in bases), None)


def _pictures(connection: duckdb.DuckDBPyConnection, run: Run, scorers: list[str], names: list[str]) -> Pictures:
    """Raises: RunError where no pair of two of the models was scored on both sides."""
    connection.execute(
        f"create temp table compared_pictures as\n{query_text('compare/pictures', scorer=scorers)}", {"models": names}
    )
    table = connection.sql("from compared_pictures order by picture").to_arrow_table()
    pairs = connection.sql(query_text("compare/pairs"), params={"models": names}).to_arrow_table()
    if pairs.num_rows == 0:
        raise RunError(
            f"no pair of {' and '.join(repr(name) for name in names)} was scored on both sides in {run.root}; "
            "pictures of other prompts or seeds make no pair; see also `dropped`"
        )
    prompts = connection.sql(_prompts_query(connection)).to_arrow_table()
    return Pictures(
        models=names,
        prompts=prompts["prompt"].to_pylist(),
        categories=prompts["category"].to_pylist(),
        prompt=_integers(table["place"]),
        model=_integers(table["model"]),
        one=_integers(pairs["one"]),
        two=_integers(pairs["two"]),
        scores={scorer: table[f"{scorer}_score"].cast(pa.float64()).to_numpy() for scorer in scorers},
        uids=table["image_uid"].to_pylist(),
    )


def _prompts_query(connection: duckdb.DuckDBPyConnection) -> str:
    """A run made before there were categories has none."""
    text = query_text("compare/prompts")
    return text if "category" in connection.sql("from pairs limit 0").columns else text.replace("min(category)", "null")


def _integers(column: pa.ChunkedArray) -> Any:
    return column.to_numpy().astype(np.int64)


def _spreads(connection: duckdb.DuckDBPyConnection, pictures: Pictures, draws: Resamples) -> list[Any]:
    """Diversity and distance from the reference, by every tower of the run."""
    columns = connection.sql("from images limit 0").columns
    found = []
    for tower in (name.removesuffix("_embedding") for name in columns if name.endswith("_embedding")):
        table = connection.sql(query_text("compare/embeddings", tower=[tower])).to_arrow_table()
        column = table.column(0).combine_chunks()
        embeddings = column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1).astype(np.float32)
        found += diversities(pictures, tower, embeddings, len(pictures.models) - 1, draws)
    return found


def _faults(
    connection: duckdb.DuckDBPyConnection, names: list[str], sampled: dict[str, Any]
) -> dict[str, dict[str, int]]:
    """Pictures that were left out, by model and reason; those that `train sample` found black or not finite by that."""
    faults: dict[str, Counter[str]] = {name: Counter() for name in names}
    for name, reason, count in fetch(connection, query_text("compare/faults"), {"models": names}):
        faults[name][reason] += count
    for model in sampled.get("models", []):
        for kind in ("black", "not_finite"):
            if model["name"] in faults and (count := model.get(kind, 0)):
                faults[model["name"]] += Counter({kind: count})
                faults[model["name"]] -= Counter({"image_missing": count})
    return {name: dict(sorted(found.items())) for name, found in faults.items() if found}
