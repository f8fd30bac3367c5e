"""The functions that notebooks call: each docstring's example runs, and docs/python.md lists them all."""

import doctest
import importlib
import inspect
import shutil
from pathlib import Path

import pytest

from tests.demo import ROOT, command

DOOR = {
    "curate.embed": ("embed", "EmbedOptions"),
    "curate.rank": ("rank", "RankOptions", "Psi"),
    "curate.export": ("export_shards", "ExportOptions"),
    "curate.report": ("report", "ReportOptions"),
    "curate.compare": ("compare", "CompareOptions"),
    "curate.review": ("review", "ReviewOptions"),
    "curate.ask": ("query", "search"),
    "curate.storage": ("open_run", "Run"),
    "train.training": ("train", "TrainOptions"),
    "train.sample": ("sample", "SampleOptions"),
}
FUNCTIONS = [(module, name) for module, names in DOOR.items() for name in names if name[0].islower()]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, demo_run: Path) -> Path:
    """A folder with a run of the demo, a trained model's pictures beside its base's, and a file of prompts."""
    folder = tmp_path_factory.mktemp("door")
    run = Path(shutil.copytree(demo_run, folder / "run"))
    (folder / "prompts.txt").write_text("a red circle\na blue square\n")
    sampled = ("--prompts", folder / "prompts.txt", "--steps", 1, "--output", run / "sampled")
    command("train", "sample", "--model", "one=demo", "--model", "two=demo", *sampled, run=run)
    command("curate", "embed", "--manifest", run / "sampled/manifest.toml", "--run", run / "evaluation", run=run)
    return folder


@pytest.mark.parametrize(("module", "name"), FUNCTIONS)
def test_the_example_of_a_docstring_runs(
    module: str, name: str, desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(desk)
    function = getattr(importlib.import_module(module), name)
    (test,) = [found for found in doctest.DocTestFinder(recurse=False).find(function, name) if found.examples]
    names = vars(importlib.import_module(function.__module__))
    test.globs = dict(names)
    results = doctest.DocTestRunner().run(test)
    assert results.attempted > 0
    assert results.failed == 0, capsys.readouterr().out


@pytest.mark.parametrize("module", DOOR)
def test_a_face_exports_its_door_and_docs_list_it(module: str) -> None:
    face = importlib.import_module(module)
    assert set(face.__all__) >= set(DOOR[module])
    text = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    for name in DOOR[module]:
        assert f"`{name}`" in text, name


@pytest.mark.parametrize(("module", "name"), FUNCTIONS)
def test_every_argument_but_the_first_has_a_default(module: str, name: str) -> None:
    _, *others = inspect.signature(getattr(importlib.import_module(module), name)).parameters.values()
    required = [one.name for one in others if one.default is inspect.Parameter.empty]
    assert set(required) <= {"options", "sql", "text"}
