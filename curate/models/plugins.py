"""Scorers of other packages: classes found by the entry point group `pairsieve.scorers` (docs/scorers.md)."""

import inspect
import tomllib
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import tomli_w

from curate.errors import ModelError

GROUP = "pairsieve.scorers"
GIVEN = ("device", "folder")  # a constructor that names these gets them from the program


def installed() -> dict[str, EntryPoint]:
    """Name -> entry point of every installed scorer; nothing is imported.

    Raises: ModelError when two packages use one name.
    """
    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=GROUP):
        if entry.name in found:
            packages = " and ".join(sorted((_package(found[entry.name]), _package(entry))))
            raise ModelError(f"two installed packages give a scorer '{entry.name}': {packages}; uninstall one")
        found[entry.name] = entry
    return found


def load_plugin(name: str, head: str, options: dict[str, Any], device: str, folder: Path) -> tuple[Any, dict[str, Any]]:
    """The scorer `name`, made by the entry point `head` from the options of its table, and what run.toml says of it.

    device: such as "cuda:0"; folder: where the set of models lies. Both go to a constructor that names them.
    Raises: ModelError when it cannot be imported, refuses the options, or cannot be called.
    """
    entry = installed()[head]
    where = f"scorer '{name}' ({entry.value} of {_package(entry)})"
    try:
        factory = entry.load()
    except Exception as error:  # a package's import may fail in any way
        raise ModelError(f"{where} cannot be imported: {type(error).__name__}: {error}") from error
    if not callable(factory):
        raise ModelError(f"{where} is not a scorer: it is neither a class nor a function that makes one")
    scorer = factory(**_arguments(where, factory, options, device, folder))
    if not callable(scorer):
        raise ModelError(f"{where} is not a scorer: it cannot be called with matched rows")
    stated: dict[str, Any] = (
        {"head": head, "package": entry.dist.name, "version": entry.dist.version} if entry.dist else {"head": head}
    )
    if options:
        stated["options"] = options
    if own := getattr(scorer, "identity", None):
        stated["identity"] = own
    return scorer, _as_toml(where, stated)


def _arguments(where: str, factory: Any, options: dict[str, Any], device: str, folder: Path) -> dict[str, Any]:
    """The options, and what of GIVEN the constructor names. Raises ModelError when they do not fit it."""
    signature = inspect.signature(factory)
    given = {"device": device, "folder": folder}
    arguments = {key: given[key] for key in GIVEN if key in signature.parameters} | options
    try:
        signature.bind(**arguments)
    except TypeError as error:
        raise ModelError(f"{where}: {error}; it takes {signature}") from error
    return arguments


def _as_toml(where: str, stated: dict[str, Any]) -> dict[str, Any]:
    """The identity as it will be read back from run.toml. Raises ModelError where TOML has no such value."""
    try:
        return tomllib.loads(tomli_w.dumps(stated))
    except (TypeError, ValueError, AttributeError) as error:
        raise ModelError(f"{where}: its identity cannot be written into run.toml: {error}") from error


def _package(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.value.partition(":")[0]
