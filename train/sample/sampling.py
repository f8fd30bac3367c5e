"""Models draw the same prompts from the same noise: a pair data set that `curate embed` takes.

<output>/pairs.parquet   SAMPLED_PAIRS: every two of the models, request by request
         manifest.toml   the description that `curate embed --manifest` reads
         images/         the pictures, each once; sampling.json says how they were drawn (picture_files.py)
"""

import gc
import itertools
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import tomli_w
from PIL import Image

from schemas.tables import IMAGE_SIDES, SAMPLED_PAIRS
from train.errors import ModelError, SettingsError
from train.files import whole_file
from train.model.families import BUNDLED, pipeline_index
from train.model.saving import pipeline_of, read_trained
from train.sample.generate import (
    GenerationSettings,
    PictureRequest,
    enough_memory_to_draw,
    generate,
    open_generator,
    picture_requests,
)
from train.sample.grid import Tile, save_grid
from train.sample.picture_files import (
    Model,
    RequestKey,
    StoredPicture,
    StoredPictures,
    fingerprint,
    record_settings,
    recorded_weights,
)
from train.sample.prompts import Prompt

PAIRS_FILE, MANIFEST_FILE, SPLIT = "pairs.parquet", "manifest.toml", "sampled"
MANIFEST_COLUMNS = [name for name in SAMPLED_PAIRS.names if name != "seed"]  # the columns that a manifest knows
MAX_WAITING_WRITES = 2  # batches that may wait for the disk while the next is drawn
ROWS_PER_WRITE = 4096  # of pairs.parquet, so many a row group

Pictures = dict[str, dict[RequestKey, StoredPicture]]  # by model


@dataclass(frozen=True)
class Sampling:
    """What to draw. `score_models`: the set of scoring models that the manifest asks for, if any."""

    models: tuple[Model, ...]
    prompts: list[Prompt]
    images_per_prompt: int
    generation: GenerationSettings
    batch_images: int
    seed: int
    score_models: str | None = None

    def picture_requests(self) -> list[PictureRequest]:
        """What each model draws."""
        return picture_requests(self.prompts, self.images_per_prompt, self.seed)

    @property
    def pictures(self) -> int:
        """How many all models draw together."""
        return len(self.models) * len(self.prompts) * self.images_per_prompt

    @property
    def pairs(self) -> int:
        """How many these make, every two of the models' of one request."""
        return self.pictures * (len(self.models) - 1) // 2

    @property
    def settings(self) -> dict[str, Any]:
        """What decides a picture beside its model, prompt and number; None is left out, as TOML knows none."""
        settings = {"seed": self.seed, **asdict(self.generation)}
        return {name: value for name, value in settings.items() if value is not None}


def parse_model(text: str) -> Model:
    """`NAME=SOURCE`, or a source that is its own name; a folder whose path has a `=` is a source."""
    name, equals, source = text.partition("=")
    return Model(name, source) if equals and name and source and not Path(text).exists() else Model(text, text)


def check_models(models: tuple[Model, ...]) -> None:
    """Raises: SettingsError for fewer than two or a name given twice; ModelError for one that is no pipeline."""
    names = [model.name for model in models]
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise SettingsError(f"The model {repeated[0]} is named twice; give one of them another name by NAME=MODEL.")
    if len(names) < 2:
        raise SettingsError(f"{names[0]} alone has nothing to be compared with; name a second --model, or --against.")
    for model in models:
        pipeline_index(pipeline_of(model.source))


def draw_pairs(sampling: Sampling, output: Path, progress: Callable[[int, int], None]) -> dict[str, dict[str, int]]:
    """Draw what is not there yet, and write the pairs and the manifest; pictures at fault, by model and fault.

    Raises: SettingsError, ModelError, RunDirectoryError, StorageError.
    """
    check_models(sampling.models)
    weights = {model.name: fingerprint(model.source) for model in sampling.models}
    weights = recorded_weights(output, sampling.settings, weights) | weights
    pictures: Pictures = {}
    for index, model in enumerate(sampling.models):
        before = index * len(sampling.picture_requests())
        for done in _draw(sampling, StoredPictures(output, model), weights):
            progress(before + done, sampling.pictures)
        pictures[model.name] = StoredPictures(output, model).by_request()
    faults = {model.name: _faults(model, pictures, sampling) for model in sampling.models}
    rows = _pairs(sampling, pictures)
    with whole_file(output / PAIRS_FILE) as temporary, pq.ParquetWriter(temporary, SAMPLED_PAIRS) as writer:
        while chunk := list(itertools.islice(rows, ROWS_PER_WRITE)):
            writer.write_table(pa.Table.from_pylist(chunk, schema=SAMPLED_PAIRS))
    with whole_file(output / MANIFEST_FILE) as temporary:
        temporary.write_text(manifest(sampling, faults), "utf-8")
    return {name: found for name, found in faults.items() if found}


def _draw(sampling: Sampling, stored: StoredPictures, weights: dict[str, str]) -> Iterator[int]:
    """Draw and write the model's missing pictures; how many of its pictures stand, again and again."""
    requests, drawn = sampling.picture_requests(), stored.by_request()
    missing = [one for one in requests if one.key not in drawn]
    done = len(requests) - len(missing)
    if missing:
        memory = partial(enough_memory_to_draw, stored.model.name, sampling.batch_images)
        with memory():
            generation = sampling.generation
            pipeline = open_generator(stored.model.source, generation.scheduler, generation.resolution_px)
        # Only now: a scheduler that does not fit leaves nothing.
        record_settings(stored.output, sampling.settings, weights)
        # One writer: parts stand in order, so a run that was killed cuts as one that was not.
        with ThreadPoolExecutor(1) as writer:
            waiting: deque[Future[int]] = deque()
            for start in range(0, len(missing), sampling.batch_images):
                chunk = missing[start : start + sampling.batch_images]
                with memory():
                    pixels = generate(pipeline, chunk, sampling.generation)
                waiting.append(writer.submit(stored.write, chunk, pixels))
                while len(waiting) > MAX_WAITING_WRITES or (waiting and waiting[0].done()):
                    done += waiting.popleft().result()
                    yield done
            while waiting:
                done += waiting.popleft().result()
                yield done
        del pipeline
        gc.collect()  # a pipeline refers to itself; the next model needs its memory
    else:
        yield done


def _faults(model: Model, pictures: Pictures, sampling: Sampling) -> dict[str, int]:
    """Raises: ModelError when the model drew nothing that could be compared."""
    kept = [pictures[model.name][one.key] for one in sampling.picture_requests()]
    faults = Counter(one.fault for one in kept if one.fault)
    if sum(faults.values()) == len(kept):
        words = fault_words(faults, len(kept))
        raise ModelError(f"{model.name} drew nothing that could be compared: {words}.")
    return dict(sorted(faults.items()))


def fault_words(faults: dict[str, int], pictures: int) -> str:
    """`2 black and 1 not finite of 8 pictures`."""
    words = " and ".join(f"{count} {fault.replace('_', ' ')}" for fault, count in sorted(faults.items()))
    return f"{words} of {pictures} pictures"


def _pairs(sampling: Sampling, pictures: Pictures) -> Iterator[dict[str, Any]]:
    """Rows of SAMPLED_PAIRS: of each request every two of the models, side 0 the one named first."""
    for request in sampling.picture_requests():
        for pair in itertools.combinations([model.name for model in sampling.models], 2):
            row = {"prompt": request.prompt.text, "category": request.prompt.category, "seed": request.seed}
            for side, name in zip(IMAGE_SIDES, pair, strict=True):
                kept = pictures[name][request.key]
                row |= {f"image_{side}_uid": kept.uid, f"image_{side}_path": kept.path, f"image_{side}_model": name}
            yield row


def manifest(sampling: Sampling, faults: dict[str, dict[str, int]]) -> str:
    """manifest.toml. It maps no label: nobody has judged these pairs."""
    models = sampling.score_models or ("demo" if uses_bundled(sampling.models[0].source) else None)
    document: dict[str, Any] = {
        "name": "sampled",
        "description": f"{' against '.join(model.name for model in sampling.models)}, seed {sampling.seed}",
        **({"models": models} if models else {}),
        "default_split": SPLIT,
        "splits": {SPLIT: {"files": [PAIRS_FILE], "rows": sampling.pairs}},
        "columns": {name: name for name in MANIFEST_COLUMNS},
        "sampled": {
            **sampling.settings,
            "images_per_prompt": sampling.images_per_prompt,
            "models": [_model_table(model) | faults.get(model.name, {}) for model in sampling.models],
        },
    }
    return tomli_w.dumps(document)


def _model_table(model: Model) -> dict[str, Any]:
    """What is known of a model: where it is, what it was trained from, which scorers chose its training pairs."""
    trained = read_trained(Path(model.source))
    base = {"base": trained.base} if trained else {}
    return {"name": model.name, "source": model.source, **base, "chosen_by": list(trained.chosen_by if trained else ())}


def uses_bundled(source: str) -> bool:
    """Whether a model is a bundled one or was trained from one."""
    trained = read_trained(Path(source))
    return (source if trained is None else trained.base) in BUNDLED


def save_comparison(path: Path, sampling: Sampling, output: Path, prompts: int) -> None:
    """The first pictures of the first `prompts` prompts: the model named last on the left, the first on the right.

    Raises: StorageError.
    """
    right, left = sampling.models[0], sampling.models[-1]
    trained = read_trained(Path(right.source))
    titles = ("base", "trained") if trained and trained.base == left.source else ("against", "model")
    heading = f"{titles[0]}: {left.name}   {titles[1]}: {right.name}   seed {sampling.seed}"
    chosen = sampling.picture_requests()[:: sampling.images_per_prompt][:prompts]
    kept = [StoredPictures(output, side).by_request() for side in (left, right)]
    tiles = [Tile(one.prompt.text, *(_picture(output, side[one.key]) for side in kept)) for one in chosen]
    save_grid(path, tiles, titles, heading)


def _picture(output: Path, kept: StoredPicture) -> Image.Image:
    """A picture at fault is shown black, as it came."""
    return Image.open(output / kept.path).convert("RGB") if kept.path else Image.new("RGB", (64, 64))
