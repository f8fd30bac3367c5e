"""The commands of the README on the bundled demo, as a user runs them."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def command(half: str, *arguments: object, run: Path) -> str:
    """Stdout of one command as the user runs it, with default options but the run directory."""
    done = subprocess.run(
        [sys.executable, "-m", f"{half}.cli", *map(str, arguments)],
        capture_output=True, text=True, cwd=ROOT, env=os.environ | {"PAIRSIEVE_RUN": str(run)}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def make_demo_run(root: Path) -> Path:
    """The demo embedded, ranked and exported; 20 to 60 seconds on two cores."""
    command("curate", "embed", run=root)
    command("curate", "rank", "--top", "0.0533", run=root)
    command("curate", "export-shards", run=root)
    return root
