"""The rules of the house: imports go down only, the halves never meet, light commands load nothing heavy."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = (
    "torch",
    "transformers",
    "diffusers",
    "open_clip",
    "duckdb",
    "polars",
    "prompt_toolkit",
    "starlette",
    "uvicorn",
)

# A module may import modules of its own level or below. Levels of curate, top to bottom.
LEVELS = [
    {"cli"},
    {"commands"},
    {"stages"},
    {"selection", "coverage", "rankings", "worker", "shard_fill", "shard_index"},
    {"pipeline", "shard_plan"},
    {"decoding", "part_tables"},
    {"decode_processes", "reading"},
    {"comparison", "spread", "judgements", "calibration", "filters", "fronts", "metrics", "diversity"},
    {"plan", "parts", "scoring", "batches", "database", "pictures", "comments", "run", "shard_samples"},
    {"preparing", "towers", "heads", "nsfw", "scorers", "engines", "source", "spool", "live", "card"},
    {"destination"},
    {"url_folder"},
    {"folder"},
    {"tables"},
    {"model_set", "plugins", "manifest", "decoders", "encoding", "images", "storage"},
    {"progress", "charts", "prompt_map"},
    {"ahead", "memory", "tally", "shard_order", "tar_layout"},
    {"bootstrap", "bradley_terry", "errors", "interrupts", "lines", "compare_lines"},
]


def imported(path: Path) -> set[str]:
    """Every module that a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module}
    return found


def files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def level(module: str) -> int:
    """Level of `curate.X...`; 0 is the top."""
    room = module.split(".")[1]
    return next(index for index, rooms in enumerate(LEVELS) if room in rooms)


@pytest.mark.parametrize(
    ("package", "never"),
    [
        ("curate", {"train", "tests", "benchmarks", "diffusers", "accelerate", "peft"}),
        ("train", {"curate", "tests", "benchmarks", "duckdb", "polars", "open_clip"}),
        ("schemas", {"curate", "train", "tests", "benchmarks", "torch", "duckdb", "polars"}),
    ],
)
def test_the_halves_never_meet(package: str, never: set[str]) -> None:
    for path in files(package):
        assert not {name.split(".")[0] for name in imported(path)} & never, path


def test_imports_of_curate_go_down() -> None:
    for path in files("curate"):
        inside = path.relative_to(ROOT).with_suffix("").parts
        if inside[1] == "__init__":
            continue
        own = level(".".join(inside))
        for name in imported(path):
            if name.startswith("curate."):
                assert level(name) >= own, f"{path.relative_to(ROOT)} imports {name}, which lies above it"


def test_heads_open_no_tables_and_towers_no_images() -> None:
    for path in [ROOT / "curate" / "heads.py", *files("curate/towers")]:
        assert not {"pyarrow", "duckdb", "curate.storage.tables", "curate.sources.parquet"} & imported(path), path


def loaded_by(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    return set(done.stdout.splitlines()[-1].split())


HELP = "sys.argv[1:] = {arguments!r}\nfrom {package}.cli import main\ntry:\n    main()\nexcept SystemExit:\n    pass"


@pytest.mark.parametrize(
    "command",
    [
        *("", "embed", "status", "fetch", "rank", "metrics", "diff", "export-shards", "verify"),
        *("sql", "search", "report", "browse", "compare", "review"),
    ],
)
def test_curate_help_loads_nothing_heavy(command: str) -> None:
    arguments = [*command.split(), "--help"]
    assert not loaded_by(HELP.format(arguments=arguments, package="curate")) & set(HEAVY)


@pytest.mark.parametrize("command", ["", "run", "sample"])
def test_train_help_loads_nothing_heavy(command: str) -> None:
    arguments = [*command.split(), "--help"]
    assert not loaded_by(HELP.format(arguments=arguments, package="train")) & set(HEAVY)


@pytest.mark.parametrize(
    "stage",
    ["rank", "metrics", "diff", "query", "shell", "compare", "report", "browse", "review", "status", "fetch", "verify"],
)
def test_stages_after_embedding_need_no_torch(stage: str) -> None:
    assert "torch" not in loaded_by(f"import curate.stages.{stage}")
