"""The generated reference holds every option, setting, key, metric, column and function, each with its meaning."""

import dataclasses

import pytest
import typer

import curate.cli
import train.cli
from curate.rank.metrics.metric import shipped_metrics
from docs.reference import DOOR, PAGES
from schemas import manifests, reasons, tables
from tests.demo import ROOT
from train.config import Recipe, _hints

TEXTS = {path: page() for path, page in PAGES.items()}


@pytest.mark.parametrize(
    ("path", "app"), [("reference/curate.md", curate.cli.app), ("reference/train.md", train.cli.app)]
)
def test_every_command_and_option_is_there(path: str, app: typer.Typer) -> None:
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        section = TEXTS[path].partition(f"## `{path[10:-3]} {name}`")[2].partition("\n## ")[0]
        for option in (option for parameter in command.params for option in parameter.opts if option[:2] == "--"):
            assert f"`{option}" in section, (name, option)


def test_every_setting_has_a_line_with_its_default() -> None:
    text = TEXTS["reference/settings.md"]
    for section, (kind, *_) in _hints(Recipe).items():
        fields = dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else []
        for key in [field.name for field in fields] or [section]:
            assert f"| `{key}` |" in text or f"## [{section}.{key}]" in text, key
    assert "| `label_smoothing` | float | 0 to 0.5; only `cdpo`, `dmpo` | `0.1` | how often a label is wrong |" in text
    assert "| `micro_batch_pairs` | int ≥ 1 or `auto` |" in text


def test_the_template_of_a_manifest_names_every_key() -> None:
    template = (ROOT / "data_manifests" / "generic.toml").read_text()
    told = set(manifests.MANIFEST_KEYS) - {"homepage", "license", "sampled"}
    told |= {*manifests.COLUMN_KEYS, *manifests.LABEL_KEYS, *manifests.CANDIDATE_KEYS, *manifests.RULE_KEYS}
    assert {key for key in told if key not in template} == set()
    assert all(f"`{key}`" in TEXTS["reference/manifest.md"] for key in (*told, *manifests.CANDIDATE_COLUMNS))


def test_metrics_have_their_formulas_and_columns_their_meaning() -> None:
    text = TEXTS["reference/metrics.md"]
    assert all(f"\n## {name}\n" in text for name in shipped_metrics())
    assert "psi_preferred * (1 - psi_rejected)" in text
    rows = [line for line in TEXTS["reference/tables.md"].splitlines() if line.startswith("| `")]
    assert [row for row in rows if row.endswith("|  |")] == []
    names = {*tables.PAIRS.names, *tables.RANKING.names, *reasons.REASONS, *reasons.PASSED_OVER}
    assert {name for name in names if not any(row.startswith(f"| `{name}` |") for row in rows)} == set()


@pytest.mark.parametrize("module", DOOR)
def test_functions_have_signature_and_words(module: str) -> None:
    for name in DOOR[module]:
        section = TEXTS["reference/python.md"].partition(f"### `{name}`\n\n```python\n{name}(\n")[2]
        assert section, name
        assert len(section.partition("```")[2].partition("###")[0].split()) > 5, name
