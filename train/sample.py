"""Two models draw the same prompts from the same noise: a pair dataset that `curate embed` takes.

<output>/pairs.parquet   SAMPLED_PAIRS; side 0 is `model`, side 1 `against`; a row group per batch
         manifest.toml   the description that `curate embed --manifest` reads
"""

import hashlib
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from schemas.tables import IMAGE_SIDES, SAMPLED_PAIRS
from train.export import open_pipeline, read_trained
from train.files import whole_file
from train.grid import Tile, save_grid
from train.models import BUNDLED

PAIRS_FILE, MANIFEST_FILE, SPLIT = "pairs.parquet", "manifest.toml", "sampled"
MAPPED = [name for name in SAMPLED_PAIRS.names if name != "seed"]  # the columns that a manifest knows


@dataclass(frozen=True)
class Sampling:
    """What to draw. `score_models`: the set of scoring models that the manifest asks for, if any."""

    model: str
    against: str
    prompts: list[str]
    images_per_prompt: int
    steps: int
    guidance: float
    batch_images: int
    seed: int
    score_models: str | None = None

    @property
    def pairs(self) -> int:
        return len(self.prompts) * self.images_per_prompt


class Drawing(NamedTuple):
    """One picture to draw: its noise comes from `seed` alone."""

    prompt: str
    seed: int


class DrawnPair(NamedTuple):
    """Both models' pictures of one drawing."""

    drawing: Drawing
    images: tuple[Image.Image, Image.Image]


def drawings(sampling: Sampling) -> list[Drawing]:
    """Prompt by prompt. An image's seed depends on (seed, prompt, number), not on the prompt's place."""
    return [
        Drawing(prompt, _image_seed(sampling.seed, prompt, number))
        for prompt in sampling.prompts
        for number in range(sampling.images_per_prompt)
    ]


def _image_seed(seed: int, prompt: str, number: int) -> int:
    """63 bits, as a signed 64-bit column holds them."""
    digest = hashlib.sha256(f"{seed}\0{number}\0{prompt}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def sample_pairs(
    sampling: Sampling, output: Path, progress: Callable[[int, int], None], *, keep: int = 0
) -> list[DrawnPair]:
    """Draw and write everything; the first pair of each of the first `keep` prompts is handed back.

    Raises: ModelError, StorageError.
    """
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    dtype = torch.float32 if device.type == "cpu" else torch.float16
    painters = [open_pipeline(source, dtype).to(device) for source in (sampling.model, sampling.against)]
    todo, kept, done = drawings(sampling), list[DrawnPair](), 0
    with whole_file(output / PAIRS_FILE) as temporary, pq.ParquetWriter(temporary, SAMPLED_PAIRS) as writer:
        for start in range(0, len(todo), sampling.batch_images):
            chunk = todo[start : start + sampling.batch_images]
            sides = [paint(painter, chunk, sampling) for painter in painters]
            pairs = [DrawnPair(*one) for one in zip(chunk, zip(*sides, strict=True), strict=True)]
            writer.write_table(_table(pairs, sampling))
            firsts = range(-start % sampling.images_per_prompt, len(pairs), sampling.images_per_prompt)
            kept.extend(pairs[place] for place in firsts if len(kept) < keep)
            done += len(pairs)
            progress(done, len(todo))
    with whole_file(output / MANIFEST_FILE) as temporary:
        temporary.write_text(manifest(sampling, len(todo)), "utf-8")
    return kept


def save_tiles(path: Path, pairs: list[DrawnPair], sampling: Sampling) -> None:
    """The grid of `pairs`, `against` on the left and `model` on the right. Raises: StorageError."""
    trained = read_trained(Path(sampling.model))
    words = ("base", "trained") if trained and trained.base == sampling.against else ("against", "model")
    heading = f"{words[0]}: {sampling.against}   {words[1]}: {sampling.model}   seed {sampling.seed}"
    tiles = [Tile(pair.drawing.prompt, left=pair.images[1], right=pair.images[0]) for pair in pairs]
    save_grid(path, tiles, words, heading)


@torch.no_grad()
def paint(painter: Any, chunk: list[Drawing], sampling: Sampling) -> list[Image.Image]:
    """The pictures of one batch; what a picture looks like does not depend on what else is in it."""
    painter.set_progress_bar_config(disable=True)
    shape = _latent_shape(painter)
    noise = [np.random.default_rng(one.seed).standard_normal(shape, dtype=np.float32) for one in chunk]
    images: list[Image.Image] = painter(
        prompt=[one.prompt for one in chunk],
        latents=torch.from_numpy(np.stack(noise)).to(painter.device, _denoiser(painter).dtype),
        generator=[torch.Generator().manual_seed(one.seed) for one in chunk],  # for schedulers that add noise
        num_inference_steps=sampling.steps,
        guidance_scale=sampling.guidance,
        output_type="pil",
    ).images
    return images


def _latent_shape(painter: Any) -> tuple[int, int, int]:
    config = _denoiser(painter).config
    size = config["sample_size"]
    height, width = (size, size) if isinstance(size, int) else size
    return config["in_channels"], height, width


def _denoiser(painter: Any) -> Any:
    return painter.transformer if hasattr(painter, "transformer") else painter.unet


def _table(pairs: list[DrawnPair], sampling: Sampling) -> pa.Table:
    rows = [
        {"prompt": pair.drawing.prompt, "seed": pair.drawing.seed}
        | dict(column for side in IMAGE_SIDES for column in _side_columns(pair, sampling, side))
        for pair in pairs
    ]
    return pa.Table.from_pylist(rows, schema=SAMPLED_PAIRS)


def _side_columns(pair: DrawnPair, sampling: Sampling, side: int) -> Iterator[tuple[str, Any]]:
    """The uid names side, model, drawing and bytes: equal pictures of both sides are still two images."""
    model, data = (sampling.model, sampling.against)[side], _png(pair.images[side])
    named = f"{side}\0{model}\0{pair.drawing.seed}\0{pair.drawing.prompt}\0".encode()
    yield f"image_{side}_uid", hashlib.sha256(named + data).hexdigest()[:32]
    yield f"image_{side}_bytes", data
    yield f"image_{side}_model", model


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def manifest(sampling: Sampling, rows: int) -> str:
    """manifest.toml. It maps no label: nobody has judged these pairs."""
    described = f"{sampling.model} (side 0) against {sampling.against} (side 1), seed {sampling.seed}"
    lines = [f'name = "sampled"\ndescription = {_quoted(described)}']
    models = sampling.score_models or ("demo" if uses_bundled(sampling.model) else None)
    if models is not None:
        lines.append(f"models = {_quoted(models)}")
    lines.append(f'default_split = "{SPLIT}"\n\n[splits.{SPLIT}]\nfiles = ["{PAIRS_FILE}"]\nrows = {rows}\n')
    lines.append("[columns]")
    lines.extend(f'{name} = "{name}"' for name in MAPPED)
    return "\n".join(lines) + "\n"


def uses_bundled(source: str) -> bool:
    """Whether a model is a bundled one or was trained from one."""
    trained = read_trained(Path(source))
    return (source if trained is None else trained.base) in BUNDLED


def _quoted(text: str) -> str:
    """A TOML basic string; JSON's escapes are among TOML's."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
