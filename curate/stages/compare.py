"""`curate compare`: which of two models wins, scorer by scorer, over a scored set of their pictures."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from curate.database import fetch, query_text
from curate.errors import RunError, nearest
from curate.run import Run
from curate.stages.compare_page import write_page
from curate.stages.rank import open_views
from curate.tables import write_text

RESAMPLES = 10_000
SEED = 0


@dataclass(frozen=True)
class Verdict:
    """One scorer's comparison. Rates and intervals are fractions; a tie counts half a win.

    Intervals are 95 % percentile bootstraps over prompts: pictures of one prompt are not independent.
    """

    scorer: str
    pairs: int
    wins: int
    ties: int
    losses: int
    win_rate: float
    win_rate_low: float
    win_rate_high: float
    mean_model: float
    mean_against: float
    mean_change: float
    mean_change_low: float
    mean_change_high: float
    median_change: float


def compare(run: Run, model: str | None, against: str | None, page: Path | None, gallery: int) -> dict[str, Any]:
    """Compare two models' pictures; write compare.json and the page; return the report.

    gallery: how many pairs the page shows, spread over all prompts. Raises: RunError.
    """
    summary = run.summary()
    connection = open_views(run)
    chosen, other = _two_models(
        fetch(
            connection,
            "select image_0_model, image_1_model, count(*) from pairs group by all order by 3 desc, 1, 2",
        ),
        model,
        against,
        run,
    )
    query = query_text("compared_pairs", scorer=summary["scorers"])
    table = connection.sql(query, params={"model": chosen, "against": other}).to_arrow_table()
    if table.num_rows == 0:
        raise RunError(f"no pair of '{chosen}' and '{other}' was scored on both sides in {run.root}; see `dropped`")
    verdicts = [verdict(table, scorer) for scorer in summary["scorers"]]
    report = {
        "model": chosen,
        "against": other,
        "pairs": table.num_rows,
        "prompts": len(set(table["prompt_id"].to_pylist())),
        "confidence": f"95 % percentile bootstrap over prompts, {RESAMPLES:,} resamples, seed {SEED}",
        "verdicts": [asdict(item) for item in verdicts],
    }
    write_text(json.dumps(report, indent=2) + "\n", run.root / "compare.json")
    report["page"] = str(page or run.root / "compare.html")
    write_page(run, report, table, Path(report["page"]), gallery)
    return report


def verdict(table: pa.Table, scorer: str, resamples: int = RESAMPLES) -> Verdict:
    """One scorer's verdict over the rows of compared_pairs.sql."""
    model = table[f"{scorer}_model"].to_numpy().astype(np.float64)
    against = table[f"{scorer}_against"].to_numpy().astype(np.float64)
    change = model - against
    points = (change > 0) + 0.5 * (change == 0)
    _, prompt = np.unique(table["prompt_id"].to_numpy(zero_copy_only=False), return_inverse=True)
    win_low, win_high = clustered_interval(points, prompt, resamples)
    change_low, change_high = clustered_interval(change, prompt, resamples)
    return Verdict(
        scorer=scorer,
        pairs=len(change),
        wins=int((change > 0).sum()),
        ties=int((change == 0).sum()),
        losses=int((change < 0).sum()),
        win_rate=float(points.mean()),
        win_rate_low=win_low,
        win_rate_high=win_high,
        mean_model=float(model.mean()),
        mean_against=float(against.mean()),
        mean_change=float(change.mean()),
        mean_change_low=change_low,
        mean_change_high=change_high,
        median_change=float(np.median(change)),
    )


def clustered_interval(values: np.ndarray, cluster: np.ndarray, resamples: int) -> tuple[float, float]:
    """95 % percentile bootstrap of the mean of `values` when whole clusters are drawn with replacement.

    values: (n,); cluster: (n,) integers 0..k-1. Efron and Tibshirani, An Introduction to the Bootstrap, ch. 13.
    """
    count = int(cluster.max()) + 1
    sums, sizes = np.bincount(cluster, values, count), np.bincount(cluster, minlength=count)
    random = np.random.default_rng(SEED)
    means = np.empty(resamples)
    for start in range(0, resamples, 500):  # 500 draws at once bound the memory at 500 k numbers
        drawn = random.integers(0, count, (min(500, resamples - start), count))
        means[start : start + len(drawn)] = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def _two_models(found: list[tuple[Any, ...]], model: str | None, against: str | None, run: Run) -> tuple[str, str]:
    """The two names to compare: as given, or the only two there are, side 0's first."""
    names = list(dict.fromkeys(name for row in found for name in row[:2] if name is not None))
    for given in filter(None, (model, against)):
        if given not in names:
            raise RunError(f"no picture in {run.root} was drawn by '{given}'{nearest(given, names)}")
    rest = [name for name in names if name not in (model, against)]
    if model and against:
        return model, against
    if len(names) == 2:
        first = model or next(name for name in names if name != against)
        return first, against or next(name for name in names if name != first)
    if not names:
        raise RunError(
            f"the pairs of {run.root} do not say which model drew each image; map image_0_model and image_1_model"
        )
    raise RunError(
        f"{run.root} has pictures of {len(names)} models; name two with --model and --against{nearest('', rest)}"
    )
