"""`curate search` beside a slow version, its SQL over rows written by hand, and what it refuses."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate import cli
from curate.ask.search import load_run_tower
from curate.database.queries import query_text
from curate.models.model_set import load_model_set
from curate.rank.rankings import open_views
from curate.storage.run import Run
from tests.curate.builders import Outcome, pair_row, write_pairs
from tests.curate.runs import make_run, ranked

Curate = Callable[..., Outcome]
TEXT = "a red circle number 3"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty pairs over five prompts, the last two of them ties; embedded and ranked."""
    folder = tmp_path_factory.mktemp("finished")
    ties = {index: {"label_0": 0.5, "label_1": 0.5} for index in (18, 19)}
    source = write_pairs(folder / "train-0.parquet", (pair_row(i, **ties.get(i, {})) for i in range(20)))
    embed = ["embed", "--manifest", "pickapic_v2", "--models", "demo", "--source", str(source), "--device", "cpu"]
    for command in (embed, ["rank", "--top", "6"]):
        cli.app([*command, "--run", str(folder / "run")], standalone_mode=False)
    return folder / "run"


@pytest.fixture
def root(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def searched(curate: Curate, root: Path, *arguments: object) -> list[dict[str, Any]]:
    found = curate("search", *arguments, "--run", root, "--json")
    assert found.code == 0, found.err
    return json.loads(found.out)


@pytest.mark.parametrize("tower", ["clip", "pickscore"])
def test_prompts_equal_a_slow_version(curate: Curate, root: Path, tower: str) -> None:
    table = pq.read_table(root / "prompts")
    stored = np.array(table[f"{tower}_embedding"].to_pylist(), np.float64)
    wanted = load_run_tower(Run(root), tower, None).embed_prompts([TEXT])[0].numpy().astype(np.float64)
    similarity = stored @ wanted / np.linalg.norm(stored, axis=1) / np.linalg.norm(wanted)
    ranking = pq.read_table(root / "rankings" / "default.parquet").to_pylist()
    pairs = pq.read_table(root / "pairs.parquet")["prompt_id"].to_pylist()
    expected = []
    for place in np.argsort(-similarity):
        prompt_id = table["prompt_id"][place].as_py()
        own = [row for row in ranking if row["prompt_id"] == prompt_id]
        expected.append(
            {
                "similarity": pytest.approx(similarity[place], abs=1e-5),
                "prompt": table["prompt"][place].as_py(),
                "pairs": pairs.count(prompt_id),
                "selected": sum(row["selected"] for row in own),
                "best_rank": min(row["rank"] for row in own),
                "prompt_id": prompt_id,
            }
        )
    assert searched(curate, root, TEXT, "--tower", tower) == expected
    assert expected[0]["prompt"] == TEXT
    assert expected[0]["similarity"] == 1.0


def test_a_limit(curate: Curate, root: Path) -> None:
    assert len(searched(curate, root, TEXT, "--limit", 2)) == 2
    assert len(searched(curate, root, TEXT, "--limit", 3, "--pairs")) == 3


def test_pairs_of_the_nearest_prompt_come_first_and_ties_last(curate: Curate, root: Path) -> None:
    found = searched(curate, root, "a red circle number 4", "--pairs", "--limit", 50)
    assert len(found) == 20
    assert [row["prompt"] for row in found[:4]] == ["a red circle number 4"] * 4
    ranks = [row["rank"] for row in found[:4]]
    assert ranks[2:] == [None, None]
    assert ranks[0] < ranks[1]
    assert (found[3]["preferred_uid"], found[3]["selected"]) == (None, None)


def test_text_for_people(curate: Curate, root: Path) -> None:
    shown = curate("search", TEXT, "--run", root, "--limit", 1).out.splitlines()
    assert shown[0] == "similarity   pairs  selected  best rank  prompt"
    assert shown[1].split()[0] == "1.0000"
    assert shown[1].endswith(f"  {TEXT}")
    listed = curate("search", "a red circle number 4", "--run", root, "--pairs", "--limit", 4).out.splitlines()
    assert listed[0].split() == ["similarity", "rank", "quality", "pair", "prompt"]
    assert listed[4].split()[1:3] == ["-", "-"]


def test_another_ranking(curate: Curate, root: Path) -> None:
    curate("rank", "--run", root, "--name", "all", "--top", "1.0")
    assert sum(row["selected"] for row in searched(curate, root, TEXT, "--name", "all")) == 18
    assert sum(row["selected"] for row in searched(curate, root, TEXT)) == 6


def edit_toml(root: Path, old: str, new: str) -> None:
    text = (root / "run.toml").read_text()
    assert old in text
    (root / "run.toml").write_text(text.replace(old, new))


def test_other_weights_are_refused(curate: Curate, root: Path) -> None:
    sha256 = Run(root).settings()["settings"]["models"]["towers"]["clip"]["sha256"]
    edit_toml(root, sha256, "0" * 64)
    refused = curate("search", TEXT, "--run", root)
    assert refused == Outcome(
        1,
        "",
        f"curate: {root} was embedded by another tower 'clip' than that of the models 'demo': sha256 was "
        f"'{'0' * 64}', now '{sha256}'; name the set of models that it was made with by --models\n",
    )


def test_a_run_that_does_not_state_its_set_of_models(curate: Curate, root: Path) -> None:
    edit_toml(root, '[info]\nmodels = "demo"\n', "[info]\n")
    refused = curate("search", TEXT, "--run", root)
    assert refused.code == 2
    assert refused.err == (
        f"curate: {root}/run.toml does not say which set of models embedded it; name it with --models\n"
    )
    assert searched(curate, root, TEXT, "--models", "demo")[0]["prompt"] == TEXT


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["fox", "--tower", "clap"], 2, "--tower: {run} has no tower 'clap'; did you mean 'clip'?"),
        ([" "], 2, "the text to search for is empty"),
        (["fox", "--name", "best"], 1, "no ranking 'best' in {run}; there are default; run `curate rank` first"),
        (["fox", "--name", "a b"], 2, "a b: the name of a ranking has letters, digits and _ only, and no digit first"),
        (["fox", "--models", "dmo"], 1, "no set of models is named 'dmo'; did you mean 'demo'?"),
    ],
)
def test_refuses(curate: Curate, root: Path, arguments: list[str], code: int, message: str) -> None:
    assert curate("search", *arguments, "--run", root) == Outcome(code, "", f"curate: {message.format(run=root)}\n")


def test_a_set_of_models_names_itself_so_that_it_loads_again(tmp_path: Path) -> None:
    bundled = load_model_set("demo")
    assert bundled.location == "demo"
    own = tmp_path / "own.toml"
    own.write_text((bundled.folder / "demo.toml").read_text())
    assert load_model_set(str(own)).location == str(own.resolve())


@pytest.fixture
def by_hand(tmp_path: Path) -> Run:
    """Prompts p and q at right angles, r between them; q's pair is a tie."""
    run = make_run(
        tmp_path / "run",
        [("a", "b", 0), ("b", "a", 0), ("a", "b", None), ("a", "b", 1)],
        {"a": (0.1, 20.0), "b": (0.2, 18.0)},
        prompts=["p", "p", "q", "r"],
        embeddings={"p": [1.0, 0.0], "q": [0.0, 1.0], "r": [0.6, 0.8]},
    )
    ranked(run, top="1")
    return run


def rows_of(run: Run, name: str, embedding: list[float], limit: int) -> list[tuple[Any, ...]]:
    query = query_text(name, tower=["clip"], dimension=[str(len(embedding))])
    return open_views(run).execute(query, {"embedding": embedding, "limit": limit}).fetchall()


def test_search_by_hand(by_hand: Run) -> None:
    rows = rows_of(by_hand, "ask/search", [0.0, 2.0], 10)
    assert [(round(row[0], 6), row[5], row[2]) for row in rows] == [(1.0, "q", 1), (0.8, "r", 1), (0.0, "p", 2)]
    assert [row[4] is None for row in rows] == [True, False, False]
    assert sum(row[3] for row in rows) == 1
    assert [row[5] for row in rows_of(by_hand, "ask/search", [0.0, 2.0], 1)] == ["q"]


def test_search_pairs_by_hand(by_hand: Run) -> None:
    rows = rows_of(by_hand, "ask/search_pairs", [0.0, 2.0], 10)
    assert [row[5] for row in rows][:2] == ["pair-2", "pair-3"]
    assert {row[5] for row in rows[2:]} == {"pair-0", "pair-1"}
    assert rows[2][2] < rows[3][2]
    assert [(row[6], row[7]) for row in rows][:2] == [(None, None), ("b", "a")]
    assert len(rows_of(by_hand, "ask/search_pairs", [0.0, 2.0], 3)) == 3


def test_embeddings_are_arrays_in_every_view(root: Path) -> None:
    found = open_views(Run(root)).execute(
        "select distinct table_name, data_type from duckdb_columns() where column_name like '%_embedding' order by all"
    )
    assert found.fetchall() == [("images", "FLOAT[64]"), ("prompts", "FLOAT[64]")]
    assert pa.types.is_fixed_size_list(pq.read_schema(next((root / "prompts").glob("*.parquet"))).field(2).type)
