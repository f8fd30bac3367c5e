"""The rules of the house: who may use whom, no circle, halves that never meet, commands that load nothing heavy."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.demo import ROOT

# Who may use whom, from the ground up: a wing's files may import their own wing, what is named here, and schemas.
GROUNDS = ("errors", "terminal", "storage")
CURATE = {
    "errors": (),
    "terminal": ("errors",),
    "storage": ("errors", "terminal"),
    "database": GROUNDS,
    "sources": (*GROUNDS, "database"),
    "inspect": (*GROUNDS, "sources"),
    "pages": (*GROUNDS, "sources", "database"),
    "models": (*GROUNDS, "sources"),
    "rank": (*GROUNDS, "database", "models"),
    "ask": (*GROUNDS, "database", "pages", "models", "rank"),
    "embed": (*GROUNDS, "sources", "models", "rank"),  # --parity ranks its sample as `curate rank` does
    "score": ("errors", "sources", "models", "embed"),
    "export": (*GROUNDS, "sources", "database", "rank", "embed"),
    "report": (*GROUNDS, "sources", "database", "rank", "pages"),
    "compare": (*GROUNDS, "sources", "database", "pages"),
    "review": (*GROUNDS, "sources", "database", "pages", "compare"),
    "commands": (
        *(*GROUNDS, "sources", "models"),
        *("ask", "compare", "embed", "export", "inspect", "rank", "report", "review", "score"),
    ),
    "cli": ("errors", "terminal", "database", "commands"),
    "__main__": ("cli",),
}
TRAIN = {
    "errors": (),
    "terminal": (),
    "files": ("errors", "terminal"),
    "processes": ("errors",),
    "config": ("errors",),
    "objectives": ("config",),
    "model": ("errors", "files", "config"),
    "data": ("errors", "files", "processes", "config", "terminal", "model"),
    "sample": ("errors", "files", "terminal", "model"),
    "training": ("errors", "files", "processes", "config", "terminal", "objectives", "model", "data", "sample"),
    "cli": ("errors", "config", "sample", "training"),
    "__main__": ("cli",),
}
HALVES = {"curate": CURATE, "train": TRAIN}
NEVER = {
    "curate": {"train", "tests", "benchmarks", "diffusers", "accelerate", "peft"},
    "train": {"curate", "tests", "benchmarks", "duckdb", "polars", "open_clip"},
    "schemas": {"curate", "train", "tests", "benchmarks", "torch", "duckdb", "polars"},
}
HEAVY = {"torch", "transformers", "diffusers", "accelerate", "open_clip", "duckdb", "polars", "prompt_toolkit"}
HEAVY |= {"starlette", "uvicorn"}


def files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path) for package in NEVER for path in files(package)}


def imported(path: Path) -> set[str]:
    """Every module that a file imports, anywhere in it: relative ones and those for type checkers, too."""
    package = module_of(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            inside = package[: len(package) + 1 - node.level] if node.level else []
            base = ".".join([*inside, *([node.module] if node.module else [])])
            submodules = {f"{base}.{alias.name}" for alias in node.names} & MODULES
            found |= submodules or {base}
    return found


def wing(module: str) -> str:
    return module.split(".")[1]


@pytest.mark.parametrize("package", NEVER)
def test_the_halves_never_meet(package: str) -> None:
    for path in files(package):
        assert not {name.split(".")[0] for name in imported(path)} & NEVER[package], path


@pytest.mark.parametrize("half", HALVES)
def test_every_import_is_one_that_the_table_allows(half: str) -> None:
    for path, name in _inside(half):
        own = wing(module_of(path))
        assert wing(name) in (own, *HALVES[half][own]), f"{path.relative_to(ROOT)} imports {name}"


@pytest.mark.parametrize("half", HALVES)
def test_the_table_runs_down_only_and_names_what_is_there(half: str) -> None:
    wings = list(HALVES[half])
    for place, name in enumerate(wings):
        assert set(HALVES[half][name]) <= set(wings[:place]), name
    assert set(wings) == {wing(module) for module in MODULES if module.startswith(f"{half}.")}
    imports = {(wing(module_of(path)), wing(name)) for path, name in _inside(half)}
    asked = {(name, other) for name, others in HALVES[half].items() for other in others if other not in GROUNDS}
    assert asked <= imports, "strike what no file uses"


def _inside(half: str) -> list[tuple[Path, str]]:
    """Each file of a half with each module of the same half that it imports."""
    found = [(path, name) for path in files(half) for name in imported(path) if name.startswith(f"{half}.")]
    return [(path, name) for path, name in found if module_of(path) != half]


@pytest.mark.parametrize("half", HALVES)
def test_no_two_files_import_each_other_by_any_way(half: str) -> None:
    graph = {
        module_of(path): {name for name in imported(path) if name in MODULES and name.startswith(f"{half}.")}
        for path in files(half)
        if path.name != "__init__.py"
    }
    TopologicalSorter(graph).prepare()  # raises CycleError, naming the circle


def test_heads_and_towers_open_no_tables_and_no_images() -> None:
    for path in [ROOT / "curate/models/heads.py", *files("curate/models/towers")]:
        assert not {"pyarrow", "duckdb", "curate.storage.tables", "curate.sources.parquet"} & imported(path), path


@pytest.mark.parametrize("package", ["curate", "train"])
def test_every_wing_says_what_is_inside(package: str) -> None:
    for path in (ROOT / package).rglob("__init__.py"):
        assert len((ast.get_docstring(ast.parse(path.read_text())) or "").split()) >= 8, path


@pytest.mark.parametrize("half", HALVES)
def test_every_face_names_the_wings_that_its_files_use(half: str) -> None:
    untold = [
        f"{name}: {used}"
        for name, may_use in HALVES[half].items()
        if (face := ROOT / half / name / "__init__.py").exists() and name != "commands"
        for used in may_use
        if used not in (*GROUNDS, "files") and used not in face.read_text().split('"""')[1]
    ]
    assert not untold, "say in the wing's face that it may use these"


@pytest.mark.parametrize("package", ["curate", "train"])
def test_a_room_holds_at_most_nine_files(package: str) -> None:
    for folder in [path.parent for path in (ROOT / package).rglob("__init__.py")]:
        assert len([path for path in folder.glob("*.py") if path.name != "__init__.py"]) <= 9, folder


@pytest.mark.parametrize("package", NEVER)
def test_functions_are_short_and_the_training_loop_alone_is_long(package: str) -> None:
    for path in files(package):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1
                loop = (path.name, node.name) == ("loop.py", "run_training")
                command = path.parent.name == "commands" or path.name == "cli.py"  # mostly their options
                assert length <= (150 if loop else 90 if command else 60), f"{path}: {node.name} has {length} lines"


def loaded_by(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    return set(done.stdout.splitlines()[-1].split())


HELP = "sys.argv[1:] = {arguments!r}\nfrom {package}.cli import main\ntry:\n    main()\nexcept SystemExit:\n    pass"


@pytest.mark.parametrize(
    "command",
    [
        *("", "embed", "status", "fetch", "rank", "metrics", "diff", "export-shards", "export-for", "verify"),
        *("sql", "search", "show", "score", "report", "browse", "compare", "review"),
    ],
)
def test_curate_help_loads_nothing_heavy(command: str) -> None:
    arguments = [*command.split(), "--help"]
    assert not loaded_by(HELP.format(arguments=arguments, package="curate")) & HEAVY


@pytest.mark.parametrize("command", ["", "run", "sample"])
def test_train_help_loads_nothing_heavy(command: str) -> None:
    loaded = loaded_by(HELP.format(arguments=[*command.split(), "--help"], package="train"))
    assert "typer" in loaded
    assert not loaded & (HEAVY | {"curate", "numpy", "pyarrow"})


LIGHT = [
    *(module for module in sorted(MODULES) if module.startswith(("curate.storage", "curate.database", "curate.rank"))),
    *("curate.ask", "curate.ask.shell", "curate.compare", "curate.review.stage"),
    *("curate.report.stage", "curate.report.browse", "curate.export", "curate.export.verify.stage"),
    *("curate.embed", "curate.embed.status", "curate.embed.fetch"),
]


def test_what_needs_no_torch_does_not_load_it() -> None:
    assert "torch" not in loaded_by("\n".join(f"import {module}" for module in LIGHT))
    assert not loaded_by("import train.training, train.sample") & (HEAVY | {"numpy", "pyarrow"})
