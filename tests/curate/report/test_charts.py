"""Specs that carry roles instead of colours, and become the same chart in either palette."""

import json
import re

import pytest

from curate.pages.palettes import PALETTES
from curate.report.charts import Figure, chart_of, counts_chart, histogram_chart, themed


def test_both_palettes_name_the_same_roles() -> None:
    assert set(PALETTES["light"]) == set(PALETTES["dark"])
    assert all(re.fullmatch("#[0-9a-f]{6}", colour) for palette in PALETTES.values() for colour in palette.values())


def luminance(colour: str) -> float:
    """Relative luminance, WCAG 2.2."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("palette", PALETTES.values(), ids=PALETTES)
def test_colours_stand_out_from_the_paper(palette: dict[str, str]) -> None:
    """Text needs a contrast of 4.5, lines of a chart 3 (WCAG 2.2, 1.4.3 and 1.4.11)."""
    paper = luminance(palette["paper"])
    for role, colour in palette.items():
        least = {"ink": 4.5, "soft": 4.5, "chosen": 4.5, "rejected": 3.6, "paper": 1, "line": 1, "all": 1}.get(role, 3)
        light, dark = max(paper, luminance(colour)), min(paper, luminance(colour))
        assert (light + 0.05) / (dark + 0.05) >= least, role


def test_a_themed_spec_has_no_role_left() -> None:
    rows = [{"step": "pairs", "part": "ranked", "pairs": 3, "kept": "kept", "start": 0, "end": 3, "label": "3"}]
    spec = Figure("counts", "Counts", "", "three", counts_chart(rows)).spec()
    assert '"@chosen"' in json.dumps(spec)
    for palette in PALETTES.values():
        text = json.dumps(themed(spec, palette))
        assert '"@' not in text
        assert palette["chosen"] in text


def test_data_that_looks_like_a_role_stays() -> None:
    spec = {"data": chart_of([{"prompt": "draw @ink"}]).mark_point().to_dict()["data"]}
    assert themed(spec, PALETTES["light"])["data"]["values"] == [{"prompt": "draw @ink"}]


def test_the_description_is_the_summary() -> None:
    rows = [{"value": 0.5, "low": 0.0, "high": 1.0, "group": "all", "share": 1.0, "pairs": 1}]
    figure = Figure("quality", "Quality", "", "It is 0.5.", histogram_chart(rows, "quality", ["all"], None))
    assert figure.spec()["description"] == "It is 0.5."
