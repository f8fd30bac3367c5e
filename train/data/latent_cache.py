"""The latent cache: each unique image and each unique prompt is encoded once, and mapped into memory after.

<cache>/cache.json          the key: model, resolution, cut, shards; `complete` once every row is there
        moments-HxW.npy     (image, view, 2, channel, height, width): mean and standard deviation of the scaled
                            posterior of the images cut to H x W px; view 1 is the mirror image
        prompt_embeds.npy   (prompt + 1, token, width); the last is the empty prompt
        pooled_embeds.npy, time_ids.npy   where the model's family has them
        done.npy            a byte for each chunk of rows: what a killed run has finished is kept

Every process of the first machine fills its share of the chunks of one set of files. A chunk holds the same
rows whoever encodes it, so the cache does not depend on how many processes there were.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from filelock import FileLock, Timeout
from numpy.typing import DTypeLike, NDArray
from torch import Tensor

from train.data.images import Crop
from train.data.latents import check_finite, encode_posterior, read_crop
from train.data.pairs import PairSet
from train.data.prefetch import prefetched
from train.errors import CacheError, shortened
from train.files import read_json, whole_file, write_json
from train.model.families import Conditioning, DiffusionModel, Latents, encode_prompts, prompts_cut
from train.terminal import Reporter

CHUNK_ROWS = 16  # rows encoded at once
FLUSH_EVERY_CHUNKS = 16  # what is flushed together, and lost at most when the machine fails
DECODE_THREADS = 4  # threads that read pictures ahead of the VAE
STORED_DTYPE = np.float16  # posterior and embeddings; half of float32's disk, error 2^-11 of the value
INDEX, DONE = "cache.json", "done.npy"
FORMAT = 2  # of the files; another format is another cache
CROP = "centre"  # how `images.centre_crop` cuts; another crop is another cache
Key = dict[str, Any]


class Chunk(NamedTuple):
    """Rows that are encoded at once. `array`: where images go; None for prompts. `items`: which ones they are."""

    array: str | None
    items: list[int]
    first_row: int

    @property
    def rows(self) -> slice:
        return slice(self.first_row, self.first_row + len(self.items))


def cache_key(model: DiffusionModel, pairs: PairSet, *, resolution_px: int, flips: bool) -> Key:
    """All that decides what the cache holds."""
    shapes = sorted(set(pairs.shapes_px)) or None
    return {
        "format": FORMAT,
        "family": model.family,
        "encoders": model.encoders_digest(),
        "latent_scale_and_shift": [model.vae.config["scaling_factor"], model.vae.config.get("shift_factor")],
        "tokens": model.tokens_digest(pairs.prompts),
        "zero_empty_prompt": model.zero_empty_prompt,
        "precision": [str(part.dtype).removeprefix("torch.") for part in (model.vae, model.text_encoders[0])],
        "resolution_px": resolution_px,
        "cut": CROP if shapes is None else [CROP, *(f"{height}x{width}" for height, width in shapes)],
        "mirrored": flips,
        "shards_sha256": pairs.shard_hashes,
    }


def default_folder(pairs: PairSet, key: Key) -> Path:
    """Beside the shards, one folder for each key."""
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return Path(os.path.normpath(pairs.folder / ".." / "latents" / digest[:16]))  # of the folder `.`, too


@dataclass(frozen=True)
class LatentCache:
    """Random access to what `fill` wrote; rows are read from disk when they are asked for."""

    arrays: dict[str, NDArray[Any]]
    prompts_cut: int
    places: list[tuple[str, int]]  # of each image: its array and its row there

    @staticmethod
    def open(folder: Path, pairs: PairSet, resolution_px: int) -> "LatentCache":
        arrays = {path.stem: np.load(path, mmap_mode="r") for path in folder.glob("*.npy") if path.name != DONE}
        places = {
            image: (name, row)
            for name, images in _images_by_array(pairs, resolution_px).items()
            for row, image in enumerate(images)
        }
        return LatentCache(arrays, _stored(folder)["prompts_cut"], [places[image] for image in range(len(places))])

    def encoded(
        self, images: list[int], noise: Latents, flipped: list[bool], prompts: list[int]
    ) -> tuple[Latents, Conditioning]:
        """See `latents.LatentSource`; all images of a call are of one shape."""
        name = self.places[images[0]][0]
        rows = [self.places[image][1] for image in images]
        moments = self._rows(name, (rows, [int(one) for one in flipped]))
        rows_of = {"prompt_embeds": prompts, "pooled_embeds": prompts, "time_ids": images}
        parts = {name: self._rows(name, rows) for name, rows in rows_of.items() if name in self.arrays}
        return moments[:, 0] + moments[:, 1] * noise, Conditioning(**parts)

    def _rows(self, name: str, rows: Any) -> Tensor:
        return torch.from_numpy(np.asarray(self.arrays[name][rows])).float()


def _images_by_array(pairs: PairSet, resolution_px: int) -> dict[str, list[int]]:
    """The images that each array holds, row by row: one array for each shape."""
    found: dict[str, list[int]] = {}
    for image in range(len(pairs.images)):
        height, width = pairs.shape_px(image, resolution_px)
        found.setdefault(f"moments-{height}x{width}", []).append(image)
    return found


def open_cache(
    given: Path | None,
    model: DiffusionModel,
    pairs: PairSet,
    accelerator: Accelerator,
    reporter: Reporter,
    *,
    resolution_px: int,
    flips: bool,
) -> LatentCache:
    """Open the cache, filling what is missing of it. The model's encoders must be on their device.

    Raises: CacheError when `given` holds the latents of something else; ModelError where the VAE overflows;
    ShardError naming an image that cannot be decoded; StorageError.
    """
    key = cache_key(model, pairs, resolution_px=resolution_px, flips=flips)
    folder = default_folder(pairs, key) if given is None else given
    with _locked(folder, reporter) if accelerator.is_main_process else nullcontext():
        if accelerator.is_main_process:
            prepare(folder, key, model, pairs, resolution_px, views=1 + flips)
        accelerator.wait_for_everyone()
        if not _stored(folder)["complete"]:
            # Of several machines the first fills it: two that map one file over a network would undo each other.
            share = (accelerator.process_index, int(os.environ.get("LOCAL_WORLD_SIZE", accelerator.num_processes)))
            if share[0] < share[1]:
                fill(folder, model, pairs, reporter, resolution_px=resolution_px, share=share)
            accelerator.wait_for_everyone()
            if accelerator.is_main_process:
                write_json(folder / INDEX, _stored(folder) | {"complete": True})
        accelerator.wait_for_everyone()
    return LatentCache.open(folder, pairs, resolution_px)


def fill(
    folder: Path,
    model: DiffusionModel,
    pairs: PairSet,
    reporter: Reporter,
    *,
    resolution_px: int,
    share: tuple[int, int] = (0, 1),
) -> None:
    """Encode the chunks that are not done yet, process `share[0]` of `share[1]` those that are its own."""
    arrays = {path.stem: np.load(path, mmap_mode="r+") for path in folder.glob("*.npy")}
    done = arrays[Path(DONE).stem]
    chunks = list(enumerate(_chunks(pairs, resolution_px)))[share[0] :: share[1]]
    missing = [(number, chunk) for number, chunk in chunks if not done[number]]

    def read(one: tuple[int, Chunk]) -> list[Crop]:
        return [] if one[1].array is None else [read_crop(pairs, image, resolution_px) for image in one[1].items]

    unflushed: list[int] = []
    texts = [*pairs.prompts, ""]
    pictures = prefetched(read, missing, depth=DECODE_THREADS, threads=DECODE_THREADS)
    for count, ((number, chunk), crops) in enumerate(zip(missing, pictures, strict=True), start=1):
        if chunk.array is None:
            _write_prompts(arrays, chunk.rows, encode_prompts(model, [texts[item] for item in chunk.items]))
        else:
            _write_images(arrays, chunk, model, pairs, crops)
        unflushed.append(number)
        if len(unflushed) == FLUSH_EVERY_CHUNKS or count == len(missing):
            _flush(arrays)
            done[unflushed] = 1
            unflushed.clear()
        reporter.advance("encode chunks", count, len(missing))
    _flush(arrays)


def _chunks(pairs: PairSet, resolution_px: int) -> Iterator[Chunk]:
    lists: list[tuple[str | None, list[int]]] = [*_images_by_array(pairs, resolution_px).items()]
    lists.append((None, list(range(len(pairs.prompts) + 1))))
    for array, items in lists:
        for start in range(0, len(items), CHUNK_ROWS):
            yield Chunk(array, items[start : start + CHUNK_ROWS], start)


def _write_images(
    arrays: dict[str, Any], chunk: Chunk, model: DiffusionModel, pairs: PairSet, crops: list[Crop]
) -> None:
    pixels, moments = torch.stack([one.pixels for one in crops]), arrays[str(chunk.array)]
    for view, seen in enumerate([pixels, pixels.flip(-1)][: moments.shape[1]]):
        for part, moment in enumerate(encode_posterior(model, seen)):
            moments[chunk.rows, view, part] = moment.to("cpu", torch.float16).numpy()
    check_finite(model, pairs, chunk.items, torch.from_numpy(moments[chunk.rows]))
    if "time_ids" in arrays:
        arrays["time_ids"][chunk.items] = [one.time_ids for one in crops]


def _write_prompts(arrays: dict[str, Any], rows: slice, encoded: Conditioning) -> None:
    for name, value in encoded.parts().items():
        arrays[name][rows] = value.to("cpu", torch.float16).numpy()


def _flush(arrays: dict[str, Any]) -> None:
    for array in arrays.values():
        array.flush()


def prepare(folder: Path, key: Key, model: DiffusionModel, pairs: PairSet, resolution_px: int, *, views: int) -> None:
    """Make the files, at their full size and empty, unless they are there. Raises: CacheError, StorageError."""
    stored = _stored(folder) if (folder / INDEX).is_file() else None
    if stored is not None:
        for name, wanted in key.items():
            if (held := stored["key"].get(name)) != wanted:
                raise CacheError(
                    f"{folder} holds the latents of another model or other shards"
                    f" (its {name} is {shortened(str(held))}, this run's {shortened(str(wanted))});"
                    " name another --cache, or remove it."
                )
        return
    for array, images in _images_by_array(pairs, resolution_px).items():
        latent = model.latent_shape(*pairs.shape_px(images[0], resolution_px))
        _allocate(folder / f"{array}.npy", (len(images), views, 2, *latent), STORED_DTYPE)
    for name, value in encode_prompts(model, [""]).parts().items():
        _allocate(folder / f"{name}.npy", (len(pairs.prompts) + 1, *value.shape[1:]), STORED_DTYPE)
    if model.spec.has_time_ids:
        _allocate(folder / "time_ids.npy", (len(pairs.images), 6), np.float32)
    _allocate(folder / DONE, (len(list(_chunks(pairs, resolution_px))),), np.uint8)
    write_json(folder / INDEX, {"key": key, "complete": False, "prompts_cut": prompts_cut(model, pairs.prompts)})


def _allocate(path: Path, shape: tuple[int, ...], dtype_like: DTypeLike) -> None:
    """A file of zeros that has its room on disk: writing to a mapped file must not find the disk full."""
    dtype = np.dtype(dtype_like)
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    with whole_file(path) as temporary, temporary.open("wb") as file:
        np.lib.format.write_array_header_2_0(file, header)
        file.flush()
        size_bytes = file.tell() + dtype.itemsize * int(np.prod(shape))
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size_bytes)
        else:  # macOS has none: there the room is only asked for when it is written
            file.truncate(size_bytes)


def _stored(folder: Path) -> dict[str, Any]:
    try:
        return read_json(folder / INDEX)
    except (OSError, ValueError) as error:
        raise CacheError(f"{folder / INDEX} cannot be read; remove {folder}, and it is made again.") from error


@contextmanager
def _locked(folder: Path, reporter: Reporter) -> Iterator[None]:
    """Of several runs on one cache, one fills it and the others wait; the lock goes with the process."""
    # The file stays: a run that waits has it open. Nor is a file's mere presence taken for a lock where flock is not.
    lock = FileLock(folder / ".lock", preserve_lock_file=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            held = lock.acquire(blocking=False)
        except Timeout:
            reporter.say(f"Another run is filling {folder}: waiting for it.")
            held = lock.acquire()
    except OSError as error:
        raise CacheError(
            f"{folder} cannot hold the latent cache ({error.strerror}); name a folder by --cache, or add --no-cache."
        ) from error
    with held:
        yield
