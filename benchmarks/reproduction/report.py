"""The report: docs/reproduction.md, and beside it results, curves and pictures."""

import csv
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.reproduction import answers, result_tables
from benchmarks.reproduction.arms import Arm, Job
from benchmarks.reproduction.figures import draw_figures
from benchmarks.reproduction.results import Results, load_results
from benchmarks.reproduction.tuning import best_recipes
from benchmarks.reproduction.world import FULL, Size, open_world
from benchmarks.reproduction.world_facts import world_facts
from curate.storage.tables import write_text

TEXT = Path(__file__).with_name("text")
TABLES = ("main", "shares", "objectives", "lora", "choices")


def write_report(work: Path, docs: Path, arms: Sequence[Arm] | None = None, size: Size = FULL) -> dict[str, Any]:
    """Write everything from the jobs that are done; how many there are.

    arms: all of them by default. Raises: ValueError when no job is done.
    """
    results, folder = load_results(work, arms), docs / "reproduction"
    if not results:
        raise ValueError(f"no result in {work}; run without --report-only first")
    folder.mkdir(parents=True, exist_ok=True)
    world, base = open_world(work, size)
    facts, rows = world_facts(world), result_tables.plain_rows(results)
    write_text(json.dumps(_stated(work, results, facts), indent=1) + "\n", folder / "results.json")
    _write_csv(rows, folder / "results.csv")
    figures = draw_figures(work, folder, results, world, base)
    write_text(page(work, results, facts, figures), docs / "reproduction.md")
    jobs = len({Job(arm.arm, seed).key for arm in results.values() for seed in arm.by_seed})
    return {"arms": len(results), "runs": jobs, "figures": figures}


def _stated(work: Path, results: Results, facts: dict[str, Any]) -> dict[str, Any]:
    arms = [
        {
            "experiment": experiment,
            "arm": name,
            "selection": vars(arm.arm.selection),
            "training": vars(arm.arm.training),
            "accuracy": arm.arm.accuracy,
            "seeds": sorted(arm.by_seed),
            "pairs": arm.fact("pairs"),
            "right": arm.fact("right"),
            "test_truth": {str(step): vars(arm.at(step)) for step in arm.arm.snapshots if len(arm.by_seed) > 1},
        }
        for (experiment, name), arm in results.items()
    ]
    return {"world": facts, "own_best": best_recipes(work), "arms": arms}


def _write_csv(rows: list[dict[str, Any]], path: Path) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(dict.fromkeys(name for row in rows for name in row)))
        writer.writeheader()
        writer.writerows({name: _rounded(value) for name, value in row.items()} for row in rows)
    shutil.move(temporary, path)


def _rounded(value: Any) -> Any:
    return round(value, 5) if isinstance(value, float) and np.isfinite(value) else value


def page(work: Path, results: Results, facts: dict[str, Any], figures: list[str]) -> str:
    """docs/reproduction.md: the texts of `text/`, with numbers, tables and figures put where they name them."""
    best = best_recipes(work)
    filled = {
        "claim": "\n".join(answers.claim(results)),
        "turning_point": "\n".join(answers.turning_point(results)),
        "best_metric": "\n".join(answers.best_metric(results)),
        "winner": answers.winner(results),
        "over_optimisation": "\n".join(answers.over_optimisation(results)),
        "scorers": facts["scorer_table"],
        "noise": result_tables.noise_table(results),
        "tuning": result_tables.tuning_table(results, best) if best else answers.UNKNOWN,
        "long": result_tables.long_table(results) or answers.UNKNOWN,
        **{name: _experiment(results, name) for name in TABLES},
        **{f"figure_{Path(name).stem}": f"![{Path(name).stem}](reproduction/{name})" for name in figures},
        **{name: str(value) for name, value in facts.items() if name != "scorer_table"},
    }
    text = (TEXT / "reproduction.md").read_text("utf-8")
    for name, value in filled.items():
        text = text.replace(f"{{{{{name}}}}}", value)
    return "\n".join(line for line in text.splitlines() if not line.startswith("{{figure_")) + "\n"


def _experiment(results: Results, name: str) -> str:
    if not any(experiment == name for experiment, _ in results):
        return answers.UNKNOWN
    return f"{result_tables.seeds_line(results, name)}\n\n{result_tables.experiment_table(results, name)}"
