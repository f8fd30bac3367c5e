"""The model card: what was trained on what, by which recipe, and how it went, as text and as a picture."""

import json
import math
from pathlib import Path
from typing import Any

import altair as alt

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
    recipe, source = settings["recipe"], facts["source"]
    kind = "a LoRA" if recipe.get("lora") else "all weights"
    ranking = source.get("ranking") or {}
    rows = {
        "base": recipe["model"],
        "trained": f"{kind}, objective {recipe['objective']['name']}, {facts['steps']} steps of"
        f" {recipe['run']['batch_pairs']} pairs",
        "data set": source.get("dataset", "not stated"),
        "ranking": ", ".join(f"{name} {_plain(value)}" for name, value in ranking.items()) or "not stated",
        "pairs": f"{facts['pairs']}, {facts['unique_images']} images, {facts['unique_prompts']} prompts",
        "prompts cut at the text encoder's length": facts["prompts_cut"],
        "steps skipped": facts["skipped_steps"],
        "loss, mean of the last steps": f"{facts.get('loss', math.nan):.4f}",
        "implicit accuracy, likewise": f"{facts['implicit_accuracy']:.3f}",
        "versions": ", ".join(f"{name} {version}" for name, version in settings["versions"].items()),
    }
    tags = ["diffusion-dpo", "text-to-image", *(["lora"] if recipe.get("lora") else [])]
    head = [
        "---",
        f"base_model: {json.dumps(recipe['model'])}",
        "library_name: diffusers",
        f"tags: {json.dumps(tags)}",
        "---",
    ]
    table = ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())]
    hashes = [f"    {sha256}" for sha256 in settings["shards_sha256"]]
    recipe_lines = [f"    {line}".rstrip() for line in as_toml(recipe).splitlines()]
    parts = [
        "\n".join(head),
        "# Trained on preference pairs",
        "\n".join(table),
        f"![How it went]({CURVES})",
        "## Recipe\n\n" + "\n".join(recipe_lines),
        "## Shards, by sha256\n\n" + "\n".join(hashes),
    ]
    return "\n\n".join(parts) + "\n"


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
