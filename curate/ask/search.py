"""`curate search`: the prompts, or the pairs of the prompts, that are most like a text, by one tower's embeddings."""

from typing import Any

from curate.database.connection import query_rows
from curate.database.queries import query_text
from curate.errors import RunError, UsageError, nearest
from curate.models.model_set import ModelSet, load_model_set
from curate.models.towers import Tower, load_tower
from curate.models.weights import fetched_tower
from curate.rank.rankings import open_views
from curate.storage.run import Run, first_difference

DEFAULT_TOWER = "clip"


def search(
    run: Run,
    text: str,
    tower: str | None = None,
    ranking: str = "default",
    models: str | None = None,
    limit: int = 10,
    pairs: bool = False,
) -> list[dict[str, Any]]:
    """The nearest prompts (sql/search.sql), or the pairs of the nearest prompts (sql/search_pairs.sql), by column.

    tower: one of the run's; None for `clip`, or the run's first where it has none of that name. models: the set of
    models, where run.toml does not state it. Similarities are cosines in [-1, 1].
    Raises: UsageError, RunError, ManifestError, ModelError.

    >>> from curate.storage import open_run
    >>> [row["prompt"] for row in search(open_run("run"), "a red circle", limit=2)]  # doctest: +ELLIPSIS
    ['...', '...']
    """
    if not text.strip():
        raise UsageError("the text to search for is empty")
    connection = open_views(run, ranking=ranking)
    name = choose_tower(run, tower)
    embedder = load_run_tower(run, name, models)
    query = query_text("ask/search_pairs" if pairs else "ask/search", tower=[name], dimension=[str(embedder.dimension)])
    return query_rows(connection, query, embedding=embedder.embed_prompts([text])[0].tolist(), limit=limit)


def choose_tower(run: Run, tower: str | None) -> str:
    """The tower's name, checked against those of the run. Raises: UsageError."""
    there = list(run.settings()["settings"]["models"]["towers"])
    if not there:
        raise UsageError(
            f"{run.root} was embedded without a tower, so there is nothing to search by; add a scorer with one"
        )
    if tower is None:
        return DEFAULT_TOWER if DEFAULT_TOWER in there else there[0]
    if tower not in there:
        raise UsageError(f"--tower: {run.root} has no tower '{tower}'{nearest(tower, there)}")
    return tower


def load_run_tower(run: Run, name: str, models: str | None) -> Tower:
    """The tower that embedded the run's prompts, on the CPU in float32: one text is quick anywhere.

    Raises: RunError when its weights are not those that run.toml states; UsageError, ManifestError, ModelError.
    """
    model_set = load_model_set(_models_of(run, models))
    if name not in model_set.towers:
        raise RunError(f"the models '{model_set.name}' have no tower '{name}', but {run.root} was embedded with one")
    tower = load_tower(fetched_tower(model_set.towers[name], model_set.folder), model_set.folder, "cpu", "fp32")
    _check_identity(run, tower, model_set)
    return tower


def _models_of(run: Run, models: str | None) -> str:
    """--models, or what run.toml states."""
    stated = models or run.settings().get("info", {}).get("models")
    if not stated:
        raise UsageError(f"{run.root}/run.toml does not say which set of models embedded it; name it with --models")
    return str(stated)


def _check_identity(run: Run, tower: Tower, model_set: ModelSet) -> None:
    """Other weights give other embeddings, which compare with the run's as well as random ones would."""
    stated = run.settings()["settings"]["models"]["towers"][tower.name]
    if (difference := first_difference(stated, tower.identity)) is not None:
        key, then, now = difference
        raise RunError(
            f"{run.root} was embedded by another tower '{tower.name}' than that of the models '{model_set.name}': "
            f"{key} was {then!r}, now {now!r}; name the set of models that it was made with by --models"
        )
