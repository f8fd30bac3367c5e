"""The latent cache of a run: what is missing of it is encoded, and batches read it.

<cache>/vae-<digest>/   of each picture, by the sha256 of its bytes and the shape that it is cut to: mean and standard
                        deviation of the scaled posterior (2, channel, height, width), of its mirror image too where
                        a run asked for it; and the picture's size and cut
        text-<digest>/  of each prompt, by the hash of its text and tokens: one text encoder's states (token, width),
                        pooled where it has a projection; without what fills up a prompt, where that tells nothing

All in float16. Encoders that differ in a weight or a setting have folders of their own; so one cache serves every
metric, share and split, and models with one VAE share its pictures.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from schemas.shards import SPLIT_INDEX
from train.data.latent_cache.rows import PictureRows, PromptRows, Rows
from train.data.latent_cache.store import RowStore, check_room, locked
from train.data.latents import DECODE_THREADS
from train.data.pairs import PairSet
from train.data.prefetch import prefetched
from train.model.families import Conditioning, DiffusionModel, Family, Latents, TextStates, prompts_cut
from train.model.memory import AtOnce, enough_memory, on_device, peak_memory_bytes
from train.processes import by_one
from train.terminal import Reporter


@dataclass(frozen=True)
class LatentCache:
    """Random access to what is encoded; rows are read from disk when they are asked for.

    image_rows: the name of each image in `pictures`; prompt_rows: of each prompt in each of `texts`.
    """

    pictures: RowStore
    image_rows: list[str]
    texts: list[RowStore]
    prompt_rows: list[list[str]]
    family: Family
    text_width: int
    prompts_cut: list[int]  # of each text encoder

    def encoded(
        self, images: list[int], noise: Latents, flipped: list[bool], prompts: list[int]
    ) -> tuple[Latents, Conditioning]:
        """See `latents.LatentSource`; all images of a call are of one shape."""
        names = [self.image_rows[image] for image in images]
        moments = _rows(self.pictures, [f"{name}/view{int(view)}" for name, view in zip(names, flipped, strict=True)])
        unique = {prompt: place for place, prompt in enumerate(dict.fromkeys(prompts))}
        parts = [self._text(index, list(unique)) for index in range(len(self.texts))]
        places = torch.tensor([unique[prompt] for prompt in prompts])
        conditioning = self.family.joined(parts, self.text_width).mapped(lambda part: part[places])
        if self.family.has_time_ids:
            time_ids = _rows(self.pictures, [f"{name}/time_ids" for name in names])
            conditioning = replace(conditioning, time_ids=time_ids)
        return moments[:, 0] + moments[:, 1] * noise, conditioning

    def _text(self, index: int, prompts: list[int]) -> TextStates:
        store, names = self.texts[index], [self.prompt_rows[index][prompt] for prompt in prompts]
        encoder = self.family.text[index]
        parts = {part: [store.row(f"{name}/{part}").float() for name in names] for part in encoder.gives}
        if not encoder.ragged:
            found = {part: torch.stack(rows) for part, rows in parts.items()}
            return TextStates(found.get("states"), found.get("pooled"))
        lengths = torch.tensor([len(row) for row in parts["states"]])
        mask = torch.arange(int(lengths.max())) < lengths[:, None]
        return TextStates(pad_sequence(parts["states"], batch_first=True), mask=mask)


def _rows(store: RowStore, names: list[str]) -> Tensor:
    return torch.stack([store.row(name) for name in names]).float()


def default_root(pairs: PairSet) -> Path:
    """`latents` beside the shards, and beside the whole export for one of its splits: the run's own, of all exports."""
    outermost = pairs.folder / ".." if (pairs.folder / ".." / SPLIT_INDEX).is_file() else pairs.folder
    return Path(os.path.normpath(outermost / ".." / "latents"))  # of the folder `.`, too


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
    """Open the cache, filling what this run lacks of it: every process its share, one encoder on the device at a time.

    Raises: CacheError; ModelError where an encoder overflows; ShardError naming an image that cannot be decoded;
    MemoryFullError where a device has no room for one picture; StorageError.
    """
    root = default_root(pairs) if given is None else given
    pictures = PictureRows(root, model, pairs, resolution_px, views=1 + flips)
    prompts = [*pairs.prompts, ""]
    texts = [PromptRows(root, model, prompts, index) for index in range(len(model.text_encoders))]
    encoders: list[Rows] = [*texts, pictures]
    for rows in encoders:
        _look(rows, accelerator)
    if any(_missing(rows) for rows in encoders):
        with ExitStack() as held:
            by_one(accelerator, lambda: held.enter_context(locked(root, reporter)))
            for rows in encoders:
                _look(rows, accelerator)  # again: another run may have filled it meanwhile
            _announce(reporter, root, encoders)
            by_one(accelerator, partial(_prepare, root, encoders))
            for rows in encoders:
                _fill_together(rows, accelerator, reporter)
        reporter.say(f"Encoded, at most {peak_memory_bytes(accelerator.device):,} bytes at once.")
    else:
        _announce(reporter, root, encoders)
    return LatentCache(
        pictures=pictures.store,
        image_rows=[pictures.name(image) for image in range(len(pairs.images))],
        texts=[rows.store for rows in texts],
        prompt_rows=[rows.hashes for rows in texts],
        family=model.family,
        text_width=model.text_width,
        prompts_cut=prompts_cut(model, pairs.prompts),
    )


def _look(rows: Rows, accelerator: Accelerator) -> None:
    """Find what there is. One process lists it for all, so that all share out the same rest."""
    rows.store.find(by_one(accelerator, lambda: rows.store.files(rows.groups())), _wanted(rows))


def _wanted(rows: Rows) -> set[str]:
    return {name for items in rows.groups().values() for item in items for name in rows.names(item)}


def _missing(rows: Rows) -> dict[str, list[int]]:
    """The items to encode, by group."""
    found = {
        group: [item for item in items if any(name not in rows.store for name in rows.names(item))]
        for group, items in rows.groups().items()
    }
    return {group: items for group, items in found.items() if items}


def _announce(reporter: Reporter, root: Path, encoders: list[Rows]) -> None:
    counts = []
    for rows in encoders:
        total = sum(map(len, rows.groups().values()))
        missing = sum(map(len, _missing(rows).values()))
        counts.append(f"{rows.what}: {total - missing:,} reused, {missing:,} to encode")
    reporter.say(f"Latent cache {root}: {'; '.join(counts)}.")


def _prepare(root: Path, encoders: list[Rows]) -> None:
    check_room(root, sum(rows.row_bytes() * sum(map(len, _missing(rows).values())) for rows in encoders))
    for rows in encoders:
        rows.store.begin()


def _fill_together(rows: Rows, accelerator: Accelerator, reporter: Reporter) -> None:
    first, step = accelerator.process_index, accelerator.num_processes
    own = {group: items[first::step] for group, items in _missing(rows).items()}
    written = fill(rows, own, accelerator.device, reporter)
    rows.store.find(gather_object(written), _wanted(rows))


def fill(rows: Rows, missing: dict[str, list[int]], device: torch.device, reporter: Reporter) -> list[str]:
    """Encode items, given by group; the names of the files that this wrote."""
    written, done, total = list[str](), 0, sum(map(len, missing.values()))
    if not total:
        return written
    with enough_memory(rows.too_little_memory), on_device(rows.module, device):
        for group, items in missing.items():
            with rows.store.writer(group) as writer:
                for count, encoded in _encoded(rows, items, AtOnce(rows.at_once(group), padded=True)):
                    writer.add({name: row for name, row in encoded.items() if name not in rows.store})
                    done += count
                    reporter.advance(f"encode {rows.what}", done, total)
            written += writer.files
    return written


def _encoded(rows: Rows, items: list[int], at_once: AtOnce) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """How many items, and their rows; what they are made of is read ahead."""
    chunks = [items[start : start + at_once.count] for start in range(0, len(items), at_once.count)]

    def read(chunk: list[int]) -> list[Any]:
        return [rows.read(item) for item in chunk]

    with closing(prefetched(read, chunks, depth=DECODE_THREADS, threads=DECODE_THREADS)) as ahead:
        for chunk, given in zip(chunks, ahead, strict=True):
            yield from at_once.run(len(chunk), partial(_piece, rows, at_once, chunk, given))


def _piece(
    rows: Rows, at_once: AtOnce, items: list[int], read: list[Any], start: int, stop: int
) -> tuple[int, dict[str, Tensor]]:
    return stop - start, rows.encode(items[start:stop], read[start:stop], pad_to=at_once.count)
