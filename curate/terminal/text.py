"""What the commands print of their reports: counts as sums that the reader can add up."""

import json
import math
import re
from typing import Any


def sum_line(total: int, kept: int, kept_name: str, dropped: dict[str, int]) -> str:
    """total = kept + each reason's count."""
    terms = [f"{kept:,} {kept_name}", *(f"{count:,} {reason}" for reason, count in dropped.items())]
    return f"{total:,} = {' + '.join(terms)}"


def duration(seconds: float) -> str:
    """`42 s`, `3 min 5 s`, `2 h 7 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60} min"


def one_line(prompt: str | None) -> str:
    """A prompt without line breaks, nor anything else that a terminal obeys; a dash for one that the run lacks."""
    return "-" if prompt is None else re.sub(r"[\s\x00-\x1f\x7f-\x9f]+", " ", prompt)


def count_or_dash(value: int | None) -> str:
    """A rank, or a dash for what is not ranked."""
    return "-" if value is None else f"{value:,}"


def json_text(report: dict[str, Any] | list[dict[str, Any]]) -> str:
    """The report as one JSON document. JSON knows no infinity: a bound that is none becomes null."""
    return json.dumps(_without_infinity(report), indent=2, allow_nan=False)


def _without_infinity(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_infinity(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_infinity(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
