"""Scorers of other packages: the example of docs/scorers.md as a user installs it, and what can be wrong with one."""

import importlib
import json
import re
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import tomli_w

from curate.errors import ManifestError, ModelError
from curate.models.model_set import load_model_set
from curate.models.plugins import GROUP
from curate.models.scoring import EmbeddedPrompts, Scoring, load_scoring, stacked
from curate.storage.run import Run
from tests.curate.builders import Outcome, picture_bytes
from tests.demo import ROOT

DOCS = ROOT / "docs" / "scorers.md"
DEMO = load_model_set("demo")
Install = Callable[..., None]

SCORERS = """
import torch

class Length:
    def __call__(self, matched):
        return [float(len(text)) for text in matched.texts]

class Euclid:
    identity = {"sha256": "ab"}
    def __call__(self, matched):
        return -(matched.images - matched.prompts).norm(dim=1)

class Where:
    def __init__(self, device, folder, weight=1.0):
        self.identity = {"device": device, "folder": folder.name, "weight": weight}
    def __call__(self, matched):
        return torch.zeros(len(matched))

class Wrong:
    def __call__(self, matched):
        return torch.zeros(len(matched), 2)

class Secretive:
    identity = {"model": object()}
    def __call__(self, matched):
        return []

class Doubtful:
    def __call__(self, matched):
        return [float("nan") if text.endswith("1") else float(row) for row, text in enumerate(matched.texts)]

class Silent:
    pass

NUMBER = 3
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Put a module and its distribution's metadata on the path, as an installer leaves them."""

    def put(code: str, entries: dict[str, str], package: str = "my-scorers", version: str = "0.1") -> None:
        site = tmp_path / f"site-{package}"
        info = site / f"{package.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
        lines = "".join(f"{name} = {target}\n" for name, target in entries.items())
        (info / "entry_points.txt").write_text(f"[{GROUP}]\n{lines}")
        module = package.replace("-", "_")
        (site / f"{module}.py").write_text(code)
        monkeypatch.syspath_prepend(site)
        monkeypatch.delitem(sys.modules, module, raising=False)
        importlib.invalidate_caches()

    return put


def blocks(language: str) -> list[str]:
    """The fenced blocks of docs/scorers.md in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", DOCS.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def scorer_set(folder: Path, name: str = "mine", tower: str | None = None, **table: Any) -> str:
    """A set of models with the demo's clip tower and one scorer."""
    towers = {"clip": {"family": "open_clip", "folder": str((DEMO.folder / "../demo/models/clip").resolve())}}
    scorer = table | ({"tower": tower} if tower else {})
    path = folder / "mine.toml"
    path.write_text(tomli_w.dumps({"towers": towers, "scorers": {name: scorer}}))
    return str(path)


def loaded(path: str) -> Scoring:
    models = load_model_set(path)
    return load_scoring(models, models.choose(list(models.scorers)), "cpu", "fp32")


def test_the_documented_example_runs(
    tmp_path: Path, source_file: Path, install: Install, curate: Callable[..., Outcome]
) -> None:
    """Module, pyproject and set of models exactly as docs/scorers.md prints them, through the command line."""
    code = blocks("python")[-1]
    assert len(code.splitlines()) <= 20
    project, models = map(tomllib.loads, blocks("toml")[-2:])
    entries = project["project"]["entry-points"][GROUP]
    install(code, entries, project["project"]["name"], project["project"]["version"])
    (tmp_path / "mine.toml").write_text(tomli_w.dumps(models))
    options = ["--manifest", "pickapic_v2", "--source", source_file, "--models", tmp_path / "mine.toml"]
    done = curate("embed", *options, "--scorers", "colour", "--device", "cpu", "--run", tmp_path / "run")
    assert done.code == 0, done.err
    assert "scores  25 (prompt, image) by colour; 5 prompts" in done.out
    scores = {row["image_uid"]: row["colour_score"] for row in pq.read_table(tmp_path / "run" / "scores").to_pylist()}
    assert scores["image-3"] == pytest.approx(colourfulness(picture_bytes(3), 32), rel=1e-4)
    assert pq.read_table(tmp_path / "run" / "images").schema.names[-1] == "source_side", "no embedding"
    assert Run(tmp_path / "run").settings()["settings"]["models"]["scorers"]["colour"] == {
        "head": "colourful",
        "package": "my-scorers",
        "version": "0.1",
        "options": {"side_px": 32},
    }
    models["scorers"]["colour"]["side_px"] = 16
    (tmp_path / "mine.toml").write_text(tomli_w.dumps(models))
    done = curate("embed", *options, "--scorers", "colour", "--device", "cpu", "--run", tmp_path / "run")
    assert done.code == 1
    assert "models.scorers.colour.options.side_px was 32, now 16; use another --run" in done.err


def test_scores_that_are_not_finite_are_named_and_taken_as_missing(
    tmp_path: Path, source_file: Path, install: Install, curate: Callable[..., Outcome]
) -> None:
    """Of the source, prompt 1 has four pairs of five pictures."""
    install(SCORERS, {"doubtful": "my_scorers:Doubtful"})
    options = ["--manifest", "pickapic_v2", "--source", source_file, "--models", scorer_set(tmp_path, head="doubtful")]
    run = tmp_path / "run"
    for given in ([], ["--json"]):  # the same of a run that is there
        done = curate("embed", *options, "--scorers", "mine", "--device", "cpu", "--run", run, *given)
        assert done.code == 0, done.err
        if given:
            assert json.loads(done.out)["not_finite"] == {"mine": 5}
        else:
            assert "note: 5 scores of mine are not finite; ranking and comparing take them as missing\n" in done.out
    done = curate("rank", "--run", run, "--psi", "mine", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["dropped_pairs"]["score_missing"] == 4
    done = curate("compare", "--run", run)
    assert done.code == 0, done.err
    assert "have no finite mine score; mine leaves them out" in done.out
    assert "nan" not in done.out


def colourfulness(data: bytes, side_px: int) -> float:
    """The paper's formula in numpy."""
    import io

    from PIL import Image

    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB").resize((side_px, side_px)), np.float64)
    red, green, blue = pixels[..., 0], pixels[..., 1], pixels[..., 2]
    red_green, yellow_blue = red - green, (red + green) / 2 - blue
    spread = np.sqrt(red_green.var(ddof=1) + yellow_blue.var(ddof=1))
    return float(spread + 0.3 * np.sqrt(red_green.mean() ** 2 + yellow_blue.mean() ** 2))


def test_the_shortest_example_reads_the_prompt(tmp_path: Path, install: Install) -> None:
    install(blocks("python")[0], {"length": "my_scorers:Length"})
    scoring = loaded(scorer_set(tmp_path, head="length"))
    assert scoring.towers == {}
    embeddings, scores = scoring.score_pictures(
        {}, [(0, "x"), (1, "x"), (1, "y")], prompts_of(scoring, {"x": "a cat", "y": "two"})
    )
    assert embeddings == {}
    assert scores["mine"].tolist() == [5.0, 5.0, 3.0]
    assert scores["mine"].dtype == np.float32


def prompts_of(scoring: Scoring, texts: dict[str, str]) -> Any:
    rows = {key: row for row, key in enumerate(texts)}
    return EmbeddedPrompts(rows, list(texts.values()), scoring.embed_prompts(list(texts.values())))


def test_a_scorer_over_embeddings_names_its_tower(tmp_path: Path, install: Install) -> None:
    import io

    from PIL import Image

    install(SCORERS, {"euclid": "my_scorers:Euclid"})
    scoring = loaded(scorer_set(tmp_path, head="euclid", tower="clip"))
    picture = scoring.preprocess(Image.open(io.BytesIO(picture_bytes(1))).convert("RGB"))
    prompts = prompts_of(scoring, {"x": "a red circle"})
    embeddings, scores = scoring.score_pictures(stacked([picture]), [(0, "x")], prompts)
    cosine = float((embeddings["clip"][0] * prompts.embeddings["clip"][0]).sum())
    assert scores["mine"][0] == pytest.approx(-((2 - 2 * cosine) ** 0.5), abs=1e-5)
    assert scoring.identity["scorers"]["mine"] == {
        "tower": "clip", "head": "euclid", "package": "my-scorers", "version": "0.1", "identity": {"sha256": "ab"},
    }  # fmt: skip


def test_embeddings_without_a_tower_are_refused(tmp_path: Path, install: Install) -> None:
    install(SCORERS, {"euclid": "my_scorers:Euclid"})
    scoring = loaded(scorer_set(tmp_path, head="euclid"))
    with pytest.raises(ModelError) as caught:
        scoring.score_pictures({}, [(0, "x")], prompts_of(scoring, {"x": "a"}))
    assert str(caught.value) == 'a scorer reads embeddings, so its [scorers.NAME] table needs tower = "…"'


def test_device_and_folder_go_to_a_constructor_that_names_them(tmp_path: Path, install: Install) -> None:
    install(SCORERS, {"where": "my_scorers:Where"})
    stated = loaded(scorer_set(tmp_path, head="where", weight=2.5)).identity["scorers"]["mine"]
    assert stated["identity"] == {"device": "cpu", "folder": tmp_path.name, "weight": 2.5}
    assert stated["options"] == {"weight": 2.5}


def test_unknown_head_lists_the_installed_ones(tmp_path: Path, install: Install) -> None:
    install(SCORERS, {"length": "my_scorers:Length"})
    with pytest.raises(ManifestError, match=r"'scorers\.mine\.head' is 'lenght'; did you mean 'length'\?"):
        load_model_set(scorer_set(tmp_path, head="lenght"))
    with pytest.raises(ManifestError, match=r"; known: aesthetic, cosine, image_reward, length, nsfw, scaled_cosine"):
        load_model_set(scorer_set(tmp_path, head="qqqq"))


@pytest.mark.parametrize(
    ("entry", "table", "message"),
    [
        ("Where", {"wieght": 1}, r"\(my_scorers:Where of my-scorers 0\.1\): .*'wieght'.*; it takes \(device, folder, "),
        ("Silent", {}, r"is not a scorer: it cannot be called with matched rows"),
        ("NUMBER", {}, r"is not a scorer: it is neither a class nor a function that makes one"),
        ("Absent", {}, r"cannot be imported: AttributeError"),
        ("Secretive", {}, r"its identity cannot be written into run\.toml"),
    ],
)
def test_what_is_wrong_with_a_scorer_is_one_sentence(
    tmp_path: Path, install: Install, entry: str, table: dict[str, Any], message: str
) -> None:
    install(SCORERS, {"one": f"my_scorers:{entry}"})
    with pytest.raises(ModelError, match=rf"^scorer 'mine' .*{message}"):
        loaded(scorer_set(tmp_path, head="one", **table))


def test_one_number_for_each_row(tmp_path: Path, install: Install) -> None:
    install(SCORERS, {"wrong": "my_scorers:Wrong"})
    scoring = loaded(scorer_set(tmp_path, head="wrong"))
    with pytest.raises(
        ModelError, match=r"scorer 'mine' gave numbers of shape \(1, 2\) for 1 rows; a scorer gives one"
    ):
        scoring.score_pictures({}, [(0, "x")], prompts_of(scoring, {"x": "a"}))


def test_a_name_that_two_packages_use_is_refused(tmp_path: Path, install: Install) -> None:
    install(SCORERS, {"length": "my_scorers:Length"})
    install(SCORERS, {"length": "other_scorers:Length"}, "other-scorers", "2.0")
    with pytest.raises(
        ModelError, match=r"two installed packages give a scorer 'length': my-scorers 0\.1 and other-scorers 2\.0; "
    ):
        load_model_set(scorer_set(tmp_path, head="length"))
