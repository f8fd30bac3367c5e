"""The model card: what was trained on what, by which recipe, and how it went, as text and as a picture."""

import json
import math
from pathlib import Path
from typing import Any

import altair as alt
import jinja2

from train.config import as_toml
from train.training.output.log import read_log

CURVES = "curves.png"
PANELS = {  # metric: title of its panel
    "loss": "loss (ln 2 = 0.693 where policy = reference)",
    "implicit_accuracy": "implicit accuracy",
    "validation_implicit_accuracy": "implicit accuracy on held-out pairs",
    "policy_margin": "margin of the policy: error of rejected - preferred",
    "drift": "KL proxy: squared change of the prediction",
    "grad_norm": "gradient norm before clipping",
}
WIDTH_PX, HEIGHT_PX, PANELS_PER_ROW, MAX_POINTS = 380, 150, 2, 400


def write_card(folder: Path, settings: dict[str, Any], facts: dict[str, Any], log: Path) -> None:
    """README.md and curves.png in the model's folder. `facts`: the numbers of the run, `source` from shards.json."""
    records = read_log(log)
    draw_curves(folder / CURVES, records)
    (folder / "README.md").write_text(card_text(settings, facts), "utf-8")


def card_text(settings: dict[str, Any], facts: dict[str, Any]) -> str:
    """The card, in the form that the Hugging Face hub reads."""
    recipe = settings["recipe"]
    ranking = facts["source"].get("ranking") or {}
    return jinja2.Template(
        Path(__file__).with_suffix(".md").read_text("utf-8"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    ).render(
        settings=settings,
        recipe=recipe,
        recipe_toml=as_toml(recipe),
        facts=facts,
        base_model=json.dumps(recipe["model"]),
        lora=recipe.get("lora"),
        ranking=", ".join(f"{name} {_plain(value)}" for name, value in ranking.items()),
        curves=CURVES,
    )


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return " + ".join(map(str, value)) or "none"
    return " + ".join(f"{weight:g} {name}" for name, weight in value.items()) if isinstance(value, dict) else str(value)


def draw_curves(path: Path, records: list[dict[str, float | None]]) -> None:
    """One panel for each metric that the log has; at most MAX_POINTS steps, the mean of those between."""
    panels = [_panel(name, title, records) for name, title in PANELS.items() if any(one.get(name) for one in records)]
    alt.concat(*panels, columns=PANELS_PER_ROW).resolve_scale(y="independent").save(str(path), scale_factor=2)


def _panel(name: str, title: str, records: list[dict[str, float | None]]) -> Any:
    known = [(one["step"], value) for one in records if (value := one.get(name)) is not None]
    size = math.ceil(len(known) / MAX_POINTS)
    groups = [known[start : start + size] for start in range(0, len(known), size)]
    values = [{"step": group[-1][0], "value": sum(value for _, value in group) / len(group)} for group in groups]
    step = alt.X("step:Q", title=None)
    shown = alt.Y("value:Q", title=None, scale=alt.Scale(zero=False))
    chart = alt.Chart(alt.Data(values=values), title=title, width=WIDTH_PX, height=HEIGHT_PX)
    return chart.mark_line(color="#1f5fa8", strokeWidth=1.5, point=len(values) == 1).encode(step, shown)
