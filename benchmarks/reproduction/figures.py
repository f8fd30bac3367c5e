"""The report's figures: curves and intervals as SVG, pictures as one small PNG."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
from PIL import Image, ImageDraw

from benchmarks.demo_world.scenes import parse_caption
from benchmarks.reproduction.arms import Job
from benchmarks.reproduction.base import Base
from benchmarks.reproduction.job import SHOWN
from benchmarks.reproduction.outcome import make_examiner
from benchmarks.reproduction.pictures import SIDE_PX, draw_scenes
from benchmarks.reproduction.results import ArmResult, Results
from benchmarks.reproduction.statistics import Estimate
from benchmarks.reproduction.world import World
from curate.pages.palettes import PALETTES

LIGHT = PALETTES["light"]
COLOURS = [LIGHT[f"s{number}"] for number in range(6)]
WIDTH, HEIGHT = 520, 300
ZOOM, LABEL_PX = 4, 72
GRID_ROWS = ("bottom", "all", "random", "winner", "qsd")
Y_TITLE = "change of the hidden truth, test prompts"


def draw_figures(work: Path, folder: Path, results: Results, world: World, base: Base) -> list[str]:
    """Write every figure that has results; their file names."""
    makers: dict[str, Callable[[Results], list[dict[str, Any]]]] = {
        "curves": curve_rows,
        "noise": noise_rows,
        "shares": share_rows,
        "long": long_rows,
    }
    titles = {
        "curves": "steps",
        "noise": "judgements that are right, %",
        "shares": "share kept by qsd, %",
        "long": "steps",
    }
    written = []
    for name, maker in makers.items():
        if rows := maker(results):
            line_chart(rows, titles[name], log=name in ("shares", "long")).save(folder / f"{name}.svg")
            written.append(f"{name}.svg")
    if rows := interval_rows(results):
        interval_chart(rows).save(folder / "metrics.svg")
        written.append("metrics.svg")
    if picture_grid(work, folder / "pictures.png", results, world, base):
        written.append("pictures.png")
    return written


def point(series: str, x: float, found: Estimate) -> dict[str, Any]:
    """One point of a line; its interval is left out where a single seed gives none."""
    bounded = found.seeds > 1
    return {
        "series": series,
        "x": x,
        "mean": found.mean,
        "low": found.low if bounded else found.mean,
        "high": found.high if bounded else found.mean,
    }


def curve_rows(results: Results) -> list[dict[str, Any]]:
    """Truth by step under the shared recipe."""
    names = ("all", "random", "qsd", "winner", "calibrated", "bottom")
    return _by_step(results.get(("main", name)) for name in names)


def long_rows(results: Results) -> list[dict[str, Any]]:
    """Truth by step of the long runs."""
    return _by_step(arm for (experiment, _), arm in results.items() if experiment == "long")


def _by_step(arms: Iterable[ArmResult | None]) -> list[dict[str, Any]]:
    return [point(arm.arm.name, step, arm.at(step)) for arm in arms if arm is not None for step in arm.arm.snapshots]


def noise_rows(results: Results) -> list[dict[str, Any]]:
    """Truth at the last step by the annotators' accuracy."""
    return [
        point(name.rsplit("-", 1)[0], 100 * arm.arm.accuracy, arm.at(arm.last_step))
        for (experiment, name), arm in results.items()
        if experiment == "noise"
    ]


def share_rows(results: Results) -> list[dict[str, Any]]:
    """Truth by the share kept, at the last step and at each arm's best by validation."""
    rows = []
    for (experiment, _), arm in results.items():
        if experiment == "shares":
            share = 100 * float(arm.arm.selection.top)
            rows += [point("at the last step", share, arm.at(arm.last_step))]
            rows += [point("at its best step", share, arm.at(arm.best_step))]
    return rows


def interval_rows(results: Results) -> list[dict[str, Any]]:
    """Every arm of the main experiment at its last step."""
    return [
        point(name, 0, arm.at(arm.last_step)) for (experiment, name), arm in results.items() if experiment == "main"
    ]


def line_chart(rows: list[dict[str, Any]], x_title: str, *, log: bool) -> alt.LayerChart:
    """Means as lines, 95 % intervals as bands."""
    order = list(dict.fromkeys(row["series"] for row in rows))
    colour = alt.Color("series:N", title=None, scale=alt.Scale(domain=order, range=COLOURS[: len(order)]))
    scale = alt.Scale(type="log" if log else "linear", zero=False, nice=False)
    base = alt.Chart(alt.Data(values=rows)).encode(x=alt.X("x:Q", title=x_title, scale=scale), color=colour)
    band = base.mark_area(opacity=0.15).encode(y=alt.Y("low:Q", title=Y_TITLE), y2="high:Q")
    line = base.mark_line(point=True).encode(y="mean:Q")
    return (_zero() + band + line).properties(width=WIDTH, height=HEIGHT)


def interval_chart(rows: list[dict[str, Any]]) -> alt.LayerChart:
    """One arm a line, best first, with its 95 % interval."""
    order = [row["series"] for row in sorted(rows, key=lambda row: -row["mean"])]
    base = alt.Chart(alt.Data(values=rows)).encode(y=alt.Y("series:N", sort=order, title=None))
    bar = base.mark_rule(strokeWidth=2, color=COLOURS[0]).encode(x=alt.X("low:Q", title=Y_TITLE), x2="high:Q")
    dot = base.mark_point(filled=True, size=60, color=COLOURS[0]).encode(x="mean:Q")
    zero = alt.Chart(alt.Data(values=[{"x": 0}])).mark_rule(color=LIGHT["soft"]).encode(x="x:Q")
    return (zero + bar + dot).properties(width=WIDTH, height=22 * len(rows))


def _zero() -> alt.Chart:
    return alt.Chart(alt.Data(values=[{"y": 0}])).mark_rule(color=LIGHT["soft"]).encode(y="y:Q")


def picture_grid(work: Path, path: Path, results: Results, world: World, base: Base) -> bool:
    """The first test prompts of the first seed that has all rows: perfect drawings, the base, then arms."""
    arms = {name: results.get(("main", name)) for name in GRID_ROWS}
    kept = [set(arm.by_seed) if arm is not None else set() for arm in arms.values()]
    seeds = sorted(set.intersection(*kept))
    if not seeds:
        return False
    examiner = make_examiner(world, base.denoiser, seeds[0])
    rows = {
        "perfect": _perfect(world),
        "base": np.concatenate(examiner.base_pictures[examiner.of_group["test"]][:SHOWN], 1),
    }
    shown = {name: np.asarray(Image.fromarray(np.rint(255 * row).astype(np.uint8))) for name, row in rows.items()}
    for name, arm in arms.items():
        assert arm is not None
        shown[name] = np.asarray(Image.open(work / "pictures" / f"{Job(arm.arm, seeds[0]).key}.png"))
    _labelled(shown).save(path, optimize=True)
    return True


def _perfect(world: World) -> np.ndarray:
    scenes = [parse_caption(caption) for caption in world.test_prompts[:SHOWN]]
    return np.concatenate(draw_scenes(np.random.default_rng(0), scenes), axis=1)


def _labelled(rows: dict[str, np.ndarray]) -> Image.Image:
    """Rows under each other, enlarged, each with its name in front."""
    side = SIDE_PX * ZOOM
    grid = Image.new("RGB", (LABEL_PX + side * SHOWN, (side + 4) * len(rows)), "white")
    pen = ImageDraw.Draw(grid)
    for number, (name, row) in enumerate(rows.items()):
        top = number * (side + 4)
        pen.text((4, top + side // 2 - 6), name, fill="black")
        large = Image.fromarray(row).resize((row.shape[1] * ZOOM, side), Image.Resampling.NEAREST)
        grid.paste(large, (LABEL_PX, top))
    return grid
