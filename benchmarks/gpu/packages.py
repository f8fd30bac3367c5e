"""Which packages the parts need, whether they are here in a version that will do, and wheels for what is not."""

import platform
import subprocess
import sys
import tomllib
from importlib import import_module
from importlib.metadata import PackageNotFoundError, distributions, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parents[2] / "pyproject.toml"
# What no part needs: pages, the command line and their kin.
NOT_LOADED = {"altair", "moocore", "prompt-toolkit", "pygments", "scikit-learn", "starlette", "typer", "uvicorn"}
NOT_LOADED |= {"vl-convert-python", "webdataset"}


def required() -> dict[str, str]:
    """Name, in small letters -> requirement, of what the project asks for and a part loads."""
    lines = tomllib.loads(PROJECT.read_text("utf-8"))["project"]["dependencies"]
    named = {_requirement(line).name.lower().replace("_", "-"): line for line in lines}
    return {name: line for name, line in named.items() if name not in NOT_LOADED}


def lacking() -> list[str]:
    """Each requirement that is not met here, with what is here instead."""
    found = []
    for name, line in required().items():
        wanted = _requirement(line)
        try:
            there = version(name)
        except PackageNotFoundError:
            found.append(f"{line} (not installed)")
            continue
        if not wanted.specifier.contains(there, prereleases=True):
            found.append(f"{line} ({there} is installed)")
    return found


def install(wheels: Path, site: Path) -> None:
    """Every wheel of a folder into the folder `site`, nothing fetched and nothing else asked for.

    pip itself would ask for all that a wheel needs again, PyTorch too, which such a machine has in its own build.
    Raises: SystemExit where there is none, or pip fails.
    """
    files = sorted(map(str, wheels.glob("*.whl")))
    if not files:
        raise SystemExit(f"--wheels {wheels}: there is no wheel in it; fill it by `pip download`, see docs/gpu.md")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--upgrade", "--target"]
    where = f"Python {platform.python_version()} on {platform.machine()}"
    if subprocess.run([*pip, str(site), *files], check=False).returncode != 0:
        raise SystemExit(f"--wheels {wheels}: pip could not install them; they must be for {where}")
    sys.path.insert(0, str(site))


def versions() -> dict[str, str]:
    """Of what is required and here."""
    here = {str(one.metadata["Name"]).lower().replace("_", "-"): one.version for one in distributions()}
    return {name: here[name] for name in required() if name in here}


def _requirement(line: str) -> Any:
    """Parsed, by the parser that pip brings where there is no other."""
    parser = "packaging" if find_spec("packaging") else "pip._vendor.packaging"
    return import_module(f"{parser}.requirements").Requirement(line)
