"""The functions that notebooks call: each docstring's example runs."""

import dataclasses
import doctest
import importlib
import inspect
import shutil
from pathlib import Path

import pytest

from docs.reference import DOOR
from tests.demo import command

OPTIONS = {  # what a command takes -> the options that stand for it, and fields with another name there
    "curate.commands.embed.embed": ("curate.embed", "EmbedOptions", {"batch": "batch_images"}),
    "curate.commands.rank.rank": ("curate.rank", "RankOptions", {"param": "params"}),
    "curate.commands.export.export_shards": ("curate.export", "ExportOptions", {}),
    "curate.commands.export.export_for": ("curate.export", "LayoutOptions", {}),
    "curate.commands.report.report": ("curate.report", "ReportOptions", {}),
    "curate.commands.compare.compare": ("curate.compare", "CompareOptions", {"model": "models"}),
    "curate.commands.review.review": ("curate.review", "ReviewOptions", {"model": "models"}),
    "train.cli.run": ("train.training", "TrainOptions", {"lr": "learning_rate"}),
    "train.cli.sample": ("train.sample", "SampleOptions", {"batch": "batch_images"}),
}
FUNCTIONS = [(module, name) for module, names in DOOR.items() for name in names if name[0].islower()]
FUNCTIONS = [(module, name) for module, name in FUNCTIONS if module != "train.objectives"]
EXAMPLES = [*FUNCTIONS, ("train.objectives", "diffusion_dpo_loss")]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory, demo_run: Path) -> Path:
    """A folder with a run of the demo, a trained model's pictures beside its base's, and a file of prompts."""
    folder = tmp_path_factory.mktemp("door")
    run = Path(shutil.copytree(demo_run, folder / "run"))
    (folder / "prompts.txt").write_text("a red circle\na blue square\n")
    sampled = ("--prompts", folder / "prompts.txt", "--steps", 1, "--output", run / "sampled")
    command("train", "sample", "--model", "one=demo", "--model", "two=demo", *sampled, run=run)
    command("curate", "embed", "--manifest", run / "sampled/manifest.toml", "--run", run / "evaluation", run=run)
    return folder


@pytest.mark.parametrize(("module", "name"), EXAMPLES)
def test_the_example_of_a_docstring_runs(
    module: str,
    name: str,
    workplace: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(workplace)
    function = getattr(importlib.import_module(module), name)
    (test,) = [found for found in doctest.DocTestFinder(recurse=False).find(function, name) if found.examples]
    names = vars(importlib.import_module(function.__module__))
    test.globs = dict(names)
    results = doctest.DocTestRunner().run(test)
    assert results.attempted > 0
    assert results.failed == 0, capsys.readouterr().out


@pytest.mark.parametrize("module", [module for module in DOOR if module != "train.objectives"])
def test_a_face_exports_its_door(module: str) -> None:
    assert set(importlib.import_module(module).__all__) >= set(DOOR[module])


@pytest.mark.parametrize(("module", "name"), FUNCTIONS)
def test_every_argument_but_the_first_has_a_default(module: str, name: str) -> None:
    _, *others = inspect.signature(getattr(importlib.import_module(module), name)).parameters.values()
    required = [one.name for one in others if one.default is inspect.Parameter.empty]
    assert set(required) <= {"options", "sql", "text"}


def plain(value: object) -> object:
    """A default as the command line writes it: nothing given, one text for several names."""
    if value in ((), "auto"):
        return None
    return ",".join(value) if isinstance(value, tuple) else value


@pytest.mark.parametrize("command_path", OPTIONS)
def test_options_have_the_commands_defaults(command_path: str) -> None:
    module, name = command_path.rsplit(".", 1)
    face, options, other_names = OPTIONS[command_path]
    of_command = inspect.signature(getattr(importlib.import_module(module), name)).parameters
    fields = {one.name: one for one in dataclasses.fields(getattr(importlib.import_module(face), options))}
    compared = []
    for parameter in of_command.values():
        field = fields.get(other_names.get(parameter.name, parameter.name))
        has_default = field is not None and field.default is not dataclasses.MISSING
        if field is None or not has_default or (name, parameter.name) == ("export_shards", "seed"):
            continue  # of the shuffle, which the options leave out by None
        assert plain(parameter.default) == plain(field.default), parameter.name
        compared.append(parameter.name)
    assert len(compared) >= len(fields) // 3, compared
