"""The site's reference, made from the code whenever the site is built: a hook of MkDocs, see mkdocs.yml.

Each function returns one page as Markdown. Nothing that it writes is committed. Begin at PAGES.
"""

import dataclasses
import importlib
import inspect
import re
from collections.abc import Callable, Iterable
from importlib import resources
from typing import Annotated, Any, Literal, cast, get_args, get_origin

import typer
from typer.cli import get_docs_for_click

import curate.cli
import train.cli
from curate.rank.check import list_metrics
from curate.rank.metrics.metric import load_metric
from curate.sources.manifest import BUNDLED
from schemas import manifests, reasons, tables
from schemas.descriptions import VIEWS, describe_column, describe_view
from train import config as train_config

DOOR = {
    "curate.storage": ("open_run", "Run"),
    "curate.embed": ("embed", "EmbedOptions"),
    "curate.rank": ("rank", "RankOptions", "Psi"),
    "curate.export": ("export_shards", "ExportOptions", "export_for", "LayoutOptions"),
    "curate.ask": ("query", "search"),
    "curate.report": ("report", "ReportOptions"),
    "curate.compare": ("compare", "CompareOptions"),
    "curate.review": ("review", "ReviewOptions"),
    "train.training": ("train", "TrainOptions"),
    "train.sample": ("sample", "SampleOptions"),
    "train.objectives": ("PairErrors", "diffusion_dpo_loss", "pair_loss"),
}
"""What a notebook calls, by the module that it is imported from; tests/test_python_door.py runs their examples."""
SECTIONS = ("data", "objective", "optimizer", "run", "lora")
KEYS = {
    "": manifests.MANIFEST_KEYS,
    "splits.NAME": manifests.SPLIT_KEYS,
    "columns": manifests.COLUMN_KEYS,
    "query": manifests.QUERY_KEYS,
    "labels": manifests.LABEL_KEYS,
    "candidates": manifests.CANDIDATE_KEYS,
    "rules": manifests.RULE_KEYS,
}


def commands(name: str, app: typer.Typer) -> str:
    """Every command with its arguments and options."""
    group = typer.main.get_command(app)
    text = get_docs_for_click(obj=group, ctx=typer.Context(group, info_name=name), name=name, title=f"`{name}`")
    return re.sub(r"^Example: (.+)$", r"```console\n$ \1\n```", text, flags=re.MULTILINE)


def settings() -> str:
    """Every key of a recipe with its type, default and meaning; then the values of the presets."""
    recipe = train_config.Recipe
    known = {key: kind for key, (kind, *_) in train_config._hints(recipe).items()}
    lines = ["# Settings of `train run`", "", "A preset fills them, a file given by `--config` changes them, options"]
    lines += ["change them again. `train run --dry-run` prints the result, which is such a file.", ""]
    lines += _setting_table("Before the first section", recipe, [key for key in known if key not in SECTIONS])
    for section in SECTIONS:
        hints = train_config._hints(known[section])
        inner = {key: kind for key, (kind, *_) in hints.items() if dataclasses.is_dataclass(kind)}
        lines += _setting_table(f"[{section}]", known[section], [key for key in hints if key not in inner])
        for key, kind in inner.items():
            lines += _setting_table(f"[{section}.{key}]", cast(type, kind), list(train_config._hints(cast(type, kind))))
    return "\n".join([*lines, *_presets()])


def _setting_table(title: str, section: type, keys: list[str]) -> list[str]:
    defaults = {field.name: field.default for field in dataclasses.fields(section)}
    notes = dict(re.findall(r"^    (\w+): .*?  # (.+)$", inspect.getsource(section), re.MULTILINE))
    rows = []
    for key in keys:
        kind, *beside = train_config._hints(section)[key]
        default = "" if defaults[key] is dataclasses.MISSING else _value(defaults[key])
        limits = "; ".join(filter(None, map(_limit, beside)))
        rows.append((f"`{key}`", _kind(kind), limits, default, notes.get(key, "")))
    head = ("key", "value", "limits", "default", "")
    about = [inspect.getdoc(section) or "", ""] if title.startswith("[") else []
    return [f"## {title}", "", *about, *_table(head, rows), ""]


def _kind(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return ", ".join(f"`{word}`" for word in get_args(kind))
    if get_origin(kind) is Annotated:
        inner, *beside = get_args(kind)
        return " ".join([_kind(inner), *map(_limit, beside)])
    if get_origin(kind) is tuple:
        return f"list of {_kind(get_args(kind)[0])}"
    return " or ".join(map(_kind, get_args(kind))) or kind.__name__


def _limit(beside: Any) -> str:
    if isinstance(beside, train_config.ReadBy):
        return "only " + ", ".join(f"`{name}`" for name in beside if name)
    return f"≥ {beside.least}" if beside.most is None else f"{beside.least} to {beside.most:g}"


def _value(value: Any) -> str:
    return "absent" if value is None else f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _presets() -> list[str]:
    files = {name: resources.files("train") / "presets" / f"{name}.toml" for name in train_config.preset_names()}
    lines = ["## The presets", "", "A key that is absent has the default above."]
    for name, file in files.items():
        text = file.read_text(encoding="utf-8")
        lines += ["", f"### {name}", "", "```toml", text.strip(), "```"]
    return lines


def manifest_keys() -> str:
    """The keys of a data set's manifest: the commented template, then every key by its table."""
    lines = ["# Manifest of a data set", "", "`data_manifests/generic.toml`, the template that explains each key:", ""]
    lines += ["```toml", (BUNDLED / "generic.toml").read_text(encoding="utf-8").strip(), "```", "", "## Every key", ""]
    keys = {
        f"`[{table}]`" if table else "at the top": ", ".join(map("`{}`".format, names)) for table, names in KEYS.items()
    }
    lines += _table(("table", "keys"), keys.items())
    lines += ["", "For one row a picture (`[candidates]`), `[columns]` and a query's result hold these:", ""]
    return "\n".join([*lines, ", ".join(f"`{key}`" for key in manifests.CANDIDATE_COLUMNS)])


def metrics() -> str:
    """Each shipped metric: what it is, where it is from, its parameters, and its SQL, which is its formula."""
    lines = ["# Metrics", "", "`quality`, higher is better. `psi_preferred` and `psi_rejected` are ψ of both sides."]
    for one in list_metrics():
        lines += ["", f"## {one['name']}", "", one["purpose"], "", f"Source: {one['source']}"]
        if one["parameters"]:
            shown = [(f"`{name}`", _value(p["default"]), p["meaning"]) for name, p in one["parameters"].items()]
            lines += ["", *_table(("parameter", "default", ""), shown)]
        sql = load_metric(one["name"]).path.read_text(encoding="utf-8")
        lines += ["", "```sql", re.sub(r"\A(--.*\n)+", "", sql).strip(), "```"]
    return "\n".join(lines)


def run_tables() -> str:
    """The tables of a run directory, column by column, and the reasons why something is left out."""
    lines = [
        "# Tables and columns",
        "",
        "Each is a view for `curate sql`. Columns named after a scorer or a tower follow.",
    ]
    for name in ("pairs", "images", "prompts", "scores", "dropped", "ranking"):
        schema = getattr(tables, name.upper())
        columns = [(f"`{field.name}`", str(field.type), describe_column(name, field.name) or "") for field in schema]
        lines += ["", f"## {name}", "", describe_view(name) or "", "", *_table(("column", "type", ""), columns)]
    others = [(f"`{name}`", words) for name, words in VIEWS.items() if not hasattr(tables, name.upper())]
    lines += ["", "## What metrics and `--where` may read", "", *_table(("view", "one row is"), others)]
    lines += ["", "## Reasons", "", "Why a pair or an image is in `dropped`, and why one was passed over.", ""]
    why = reasons.REASONS | reasons.PASSED_OVER
    return "\n".join([*lines, *_table(("reason", ""), [(f"`{word}`", words) for word, words in why.items()])])


def python_functions() -> str:
    """The functions for notebooks: signature, docstring, example."""
    lines = ["# Python functions", "", "How they go together: [From Python](../python.md)."]
    for module, names in DOOR.items():
        lines += ["", f"## {module}"]
        for name in names:
            thing = getattr(importlib.import_module(module), name)
            lines += ["", f"### `{name}`", "", *_signature(name, thing), "", *_docstring(thing)]
    return "\n".join(lines)


def _signature(name: str, thing: Any) -> list[str]:
    """One argument a line, as the code writes them; of a class its fields."""
    signature = inspect.signature(thing)
    returns = "" if inspect.isclass(thing) else f" -> {_annotation(signature.return_annotation)}"
    arguments = [
        f"    {one.name}: {_annotation(one.annotation)}"
        + ("" if one.default is inspect.Parameter.empty else f" = {one.default!r}")
        for one in signature.parameters.values()
    ]
    return ["```python", f"{name}(", *(f"{line}," for line in arguments), f"){returns}", "```"]


def _annotation(hint: Any) -> str:
    """A type without the modules that its names are in; a tensor with its axes."""
    text = hint.strip("\"'") if isinstance(hint, str) else inspect.formatannotation(hint)
    return re.sub(r"\b(?:[a-z_]\w*\.)+(?=\w)", "", text)


def _docstring(thing: Any) -> list[str]:
    """Its text, then its example in a block of its own."""
    text, _, example = (inspect.getdoc(thing) or "").partition("\n>>> ")
    lines = re.sub("<", "&lt;", text).rstrip().splitlines()
    return [*lines, *(["", "```pycon", f">>> {example}", "```"] if example else [])]


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    head = tuple(head)
    cells = [[" ".join(cell.split()).replace("|", r"\|") for cell in row] for row in rows]
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *cells)]


PAGES: dict[str, Callable[[], str]] = {
    "reference/curate.md": lambda: commands("curate", curate.cli.app),
    "reference/train.md": lambda: commands("train", train.cli.app),
    "reference/settings.md": settings,
    "reference/manifest.md": manifest_keys,
    "reference/metrics.md": metrics,
    "reference/tables.md": run_tables,
    "reference/python.md": python_functions,
}


def on_files(files: Any, config: Any) -> Any:
    """MkDocs calls this once it has found the pages that are written by hand."""
    from mkdocs.structure.files import File

    for path, page in PAGES.items():
        files.append(File.generated(config, path, content=page()))
    return files
