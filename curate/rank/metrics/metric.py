"""Metrics: SQL files that give pairs a quality. What a file's header declares, and its parameters' values."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from curate.database.queries import fill_blocks
from curate.errors import QueryError, UsageError, nearest

SHIPPED = Path(__file__).parents[1] / "sql" / "metrics"
NSFW = "nsfw"
Value = int | float

_FIELD = re.compile(r"^-- (Purpose|Source|Scorers): +(.+)$", re.MULTILINE)
_PARAMETER = re.compile(r"^-- Parameter: *(.*)$", re.MULTILINE)
_DECLARATION = re.compile(r"(\w+) (integer|number) = (\S+) from (\S+) to (\S+): (.+)")


@dataclass(frozen=True)
class Parameter:
    """`-- Parameter: NAME integer|number = DEFAULT from LEAST to MOST: meaning.` of a metric's header."""

    name: str
    kind: str
    default: Value
    least: Value
    most: Value
    meaning: str


@dataclass(frozen=True)
class Metric:
    """One SQL file: a query over the run's views that returns pair_id, quality."""

    name: str
    path: Path
    text: str
    purpose: str
    source: str
    needs: tuple[str, ...]
    shipped: bool
    parameters: dict[str, Parameter]

    def sql(self, scorers: list[str]) -> str:
        """The query, its `each scorer` blocks repeated for every scorer of the run."""
        return fill_blocks(self.text, scorer=scorers)

    def lacks(self, scorers: list[str]) -> str | None:
        """The first scorer that the header says the metric needs and that is not among `scorers`."""
        return next((name for name in self.needs if name not in scorers), None)

    def check(self, scorers: list[str]) -> None:
        """Raises UsageError naming a scorer that the metric needs and the run lacks."""
        if (missing := self.lacks(scorers)) is not None:
            raise UsageError(f"metric {self.name} needs the scorer '{missing}'; the run has {', '.join(scorers)}")


def mentions(sql: str, view: str) -> bool:
    """Whether a query, its comments left out, names a view that is made only on demand."""
    return re.search(rf"\b{view}\b", _without_comments(sql), re.IGNORECASE) is not None


def not_repeatable(sql: str, functions: Iterable[str]) -> list[str]:
    """What a query names that gives other values when it is run again: one of these functions, the time, a sample."""
    called, words = (
        "|".join(functions),
        "current_date|current_time|current_timestamp|localtime|localtimestamp|tablesample",
    )
    named = rf"\b(?:(?:{called})(?=\s*\()|(?:{words}|using sample)\b)"
    return sorted({found.lower() for found in re.findall(named, _without_comments(sql), re.IGNORECASE)})


def _without_comments(sql: str) -> str:
    return re.sub(r"--[^\n]*|/\*.*?\*/", "", sql, flags=re.DOTALL)


def scorers_of(sql: str, scorers: list[str], weighed: Iterable[str]) -> list[str]:
    """The scorers whose values a query reads: by a column of theirs, through psi, or through what is fitted to all."""
    if any(mentions(sql, view) for view in ("calibrated", "annotators", "fronts")):
        return sorted(judging(scorers))
    read = {name for name in scorers if mentions(sql, rf"{name}_\w+")}
    return sorted(read | (set(weighed) if mentions(sql, r"psi_\w+") else set()))


def judging(scorers: list[str]) -> list[str]:
    """The scorers that say how good a picture is: all but those that say what must not be shown."""
    return [name for name in scorers if not flags_nsfw(name)]


def flags_nsfw(scorer: str) -> bool:
    """Whether a scorer's high values mean what is not safe for work: it is named `nsfw`, or `nsfw_…`."""
    return scorer == NSFW or scorer.startswith(f"{NSFW}_")


def shipped_metrics() -> dict[str, Path]:
    """Name -> file of each metric in curate/rank/sql/metrics."""
    return {path.stem: path for path in sorted(SHIPPED.glob("*.sql"))}


def load_metric(name_or_path: str) -> Metric:
    """A shipped metric by name, or a .sql file of the user's. Raises UsageError, QueryError for its header."""
    shipped = shipped_metrics()
    path = Path(name_or_path) if name_or_path.endswith(".sql") else shipped.get(name_or_path)
    if path is None:
        raise UsageError(f"no metric '{name_or_path}'{nearest(name_or_path, shipped)}; a file of your own ends in .sql")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UsageError(f"the metric {path} cannot be read: {reason}") from error
    fields = dict(_FIELD.findall(text))
    parameters = [_parameter(line, path) for line in _PARAMETER.findall(text)]
    return Metric(
        name=path.stem if path in shipped.values() else str(path),
        path=path,
        text=text,
        purpose=fields.get("Purpose", ""),
        source=fields.get("Source", ""),
        needs=tuple(re.findall(r"\w+", fields.get("Scorers", ""))),
        shipped=path in shipped.values(),
        parameters={item.name: item for item in parameters},
    )


def parameter_values(metric: Metric, given: Iterable[str]) -> dict[str, Value]:
    """Every parameter's value: as given by `name=value`, else its default. Raises UsageError."""
    values = {name: parameter.default for name, parameter in metric.parameters.items()}
    seen: set[str] = set()
    for term in given:
        name, equals, text = term.partition("=")
        if not equals:
            raise UsageError(f"--param {term}: write NAME=VALUE")
        if name not in metric.parameters:
            known = nearest(name, metric.parameters) or "; it has none"
            raise UsageError(f"--param {term}: metric {metric.name} has no parameter '{name}'{known}")
        if name in seen:
            raise UsageError(f"--param {term}: '{name}' is given twice")
        seen.add(name)
        values[name] = _value(metric.parameters[name], text)
    return values


def _value(parameter: Parameter, text: str) -> Value:
    try:
        value: Value = int(text) if parameter.kind == "integer" else float(text)
    except ValueError as error:
        kind = "a whole number" if parameter.kind == "integer" else "a number"
        raise UsageError(f"--param {parameter.name}={text}: give {kind}") from error
    if math.isnan(value) or not parameter.least <= value <= parameter.most:
        raise UsageError(
            f"--param {parameter.name}={text}: it lies outside {parameter.least} to {parameter.most}; "
            f"{parameter.meaning}"
        )
    return value


def _parameter(line: str, path: Path) -> Parameter:
    found = _DECLARATION.fullmatch(line.strip())
    if found is None:
        raise QueryError(
            f"{path}: '-- Parameter: {line}' is not understood; write "
            "'-- Parameter: NAME integer|number = DEFAULT from LEAST to MOST: meaning'"
        )
    name, kind, default, least, most, meaning = found.groups()
    try:
        value, low, high = (float(x) if kind == "number" or "inf" in x else int(x) for x in (default, least, most))
    except ValueError as error:
        raise QueryError(f"{path}: parameter {name}: default and range must be of kind {kind}: {error}") from error
    if not low <= value <= high:
        raise QueryError(f"{path}: parameter {name}: its default {default} lies outside {least} to {most}")
    return Parameter(name, kind, value, low, high, meaning)
