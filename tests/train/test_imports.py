import ast
import subprocess
import sys
from pathlib import Path

import train

HOUSE = Path(train.__file__).parent
FORBIDDEN = {"curate", "duckdb", "polars"}


def test_train_imports_nothing_of_curate_nor_its_engines() -> None:
    for path in HOUSE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            roots = {name.partition(".")[0] for name in names}
            assert not roots & FORBIDDEN, f"{path} imports {roots & FORBIDDEN}"


def test_help_loads_no_torch() -> None:
    code = (
        "import sys\n"
        "from train.cli import app\n"
        "for command in ([], ['run'], ['sample']):\n"
        "    app([*command, '--help'], standalone_mode=False)\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=HOUSE.parent)
    loaded = set(ast.literal_eval(done.stdout.splitlines()[-1]))
    assert "typer" in loaded
    assert not loaded & {"torch", "diffusers", "transformers", "accelerate", "numpy", "pyarrow", *FORBIDDEN}


def test_the_loop_alone_is_long() -> None:
    for path in HOUSE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1
                limit = 150 if (path.name, node.name) == ("loop.py", "train") else 60
                assert length <= limit, f"{path.name}: {node.name} has {length} lines"
