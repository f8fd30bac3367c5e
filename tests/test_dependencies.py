"""What the code imports is declared, and the lowest versions that are declared are those that CI installs."""

import ast
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.demo import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CORE = [Requirement(line) for line in PROJECT["dependencies"]]
EXTRAS = {name: [Requirement(line) for line in lines] for name, lines in PROJECT["optional-dependencies"].items()}
OURS = {"curate", "train", "schemas", "data_manifests"}
OF_EXTRAS = {"ray", "wandb", "bitsandbytes"}  # imported where they are asked for, with a message when they are missing


def names(requirements: list[Requirement]) -> set[str]:
    return {canonicalize_name(one.name) for one in requirements}


def imported() -> set[str]:
    """The top packages of every import in the product, whether at the top of a file or in a function."""
    nodes = [
        node
        for package in OURS
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
    ]
    found = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    found |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom) and not node.level}
    return {name.partition(".")[0] for name in found} - OURS - sys.stdlib_module_names


def test_every_package_that_the_code_imports_is_declared() -> None:
    found = imported()
    assert names([one for name in OF_EXTRAS for one in EXTRAS[name]]) == OF_EXTRAS
    distributions = packages_distributions()
    missing = {
        module
        for module in found - OF_EXTRAS
        if not {canonicalize_name(name) for name in distributions.get(module, [module])} & names(CORE)
    }
    assert missing == set()


def test_http_urls_are_read_by_the_core() -> None:
    """fsspec reads them by aiohttp, which it imports only when it is asked to."""
    assert "aiohttp" in names(CORE)


def lowest() -> dict[str, Version]:
    lines = (ROOT / "constraints-lowest.txt").read_text().split()
    return {canonicalize_name(name): Version(version) for name, _, version in (line.partition("==") for line in lines)}


@pytest.mark.parametrize("requirement", [*CORE, *EXTRAS["dev"]], ids=str)
def test_the_lowest_versions_are_what_is_installed_for_the_lowest(requirement: Requirement) -> None:
    """`make constraints-lowest.txt` after a change; a bound that nothing can be installed at is raised instead."""
    (bound,) = requirement.specifier
    assert bound.operator == ">="
    wanted, pinned = Version(bound.version).release, lowest()[canonicalize_name(requirement.name)].release
    assert pinned[: len(wanted)] == wanted


def test_the_pinned_versions_are_allowed() -> None:
    lines = Path(ROOT / "constraints.txt").read_text().split()
    pinned = {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines)}
    for requirement in [*CORE, *EXTRAS["dev"]]:
        assert pinned[canonicalize_name(requirement.name)] in requirement.specifier, requirement
