"""What is encoded once: the posteriors of pictures by the VAE, and the states of prompts by each text encoder.

Encoded in float32: it is used throughout, and half precision would lose more digits than the float16 that it is kept
in. On NVIDIA's devices convolutions then run in TF32, as torch has it, whose numbers have as many digits as float16's.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor

from train.data.images import Crop
from train.data.latent_cache.store import RowStore
from train.data.latents import (
    MOST_AT_ONCE,
    check_finite,
    check_finite_prompts,
    encode_posterior,
    pictures_at_once,
    read_crop,
)
from train.data.pairs import PairSet
from train.model.families import DiffusionModel, digest, encode_text, text_tokens

FORMAT = 3  # of the rows; another format is another folder
CROP = "centre"  # how `images.centre_crop` cuts; another cut is another folder
KEPT = torch.float16  # half of float32's disk, error 2^-11 of the value
TOKENIZED_AT_ONCE = 1000
PROMPTS = "prompts"  # the one group of a text encoder's files


@runtime_checkable
class Rows(Protocol):
    """What one encoder makes: where it is kept, the items that a run needs of it, and how they are encoded."""

    store: RowStore
    module: torch.nn.Module
    what: str
    too_little_memory: str  # what to do then; see `memory.enough_memory`

    def groups(self) -> dict[str, list[int]]:
        """The items by the group of files that they go to; those of one group are encoded together."""
        ...

    def names(self, item: int) -> list[str]:
        """The rows of an item."""
        ...

    def row_bytes(self) -> int:
        """Of an item, about."""
        ...

    def at_once(self, group: str) -> int:
        """How many items to encode together at most."""
        ...

    def read(self, item: int) -> Any:
        """What `encode` needs of an item; called in threads."""
        ...

    def encode(self, items: list[int], read: list[Any], pad_to: int) -> dict[str, Tensor]:
        """Rows by name. Filled up to `pad_to` items, so that a row does not depend on how many go with it."""
        ...


@dataclass
class PictureRows:
    """Posteriors of pictures; an item is an image."""

    root: Path
    model: DiffusionModel
    pairs: PairSet
    resolution_px: int
    views: int  # 2 with mirror images
    what: str = "pictures"

    def __post_init__(self) -> None:
        config = self.model.vae.config
        scale_and_shift = [config["scaling_factor"], config.get("shift_factor")]
        key = {"format": FORMAT, "cut": CROP, "weights": digest(self.model.vae), "scale_and_shift": scale_and_shift}
        self.store, self.module = RowStore(self.root, "vae", key), cast(torch.nn.Module, self.model.vae)
        self.too_little_memory = (
            "to encode one picture: only the VAE is on the device yet, so smaller batches do not help. End what else"
            f" runs there, lower data.resolution_px from {self.resolution_px}, or fill the cache on a larger device:"
            " later runs find it."
        )

    def groups(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for image in range(len(self.pairs.images)):
            found.setdefault(self._shape(image), []).append(image)
        return found

    def _shape(self, image: int) -> str:
        return "{}x{}".format(*self.pairs.shape_px(image, self.resolution_px))

    def name(self, image: int) -> str:
        """Its rows are this, `/view0` or for the mirror image `/view1`, and `/time_ids`."""
        return f"{self._shape(image)}/{self.pairs.hashes[image]}"

    def names(self, item: int) -> list[str]:
        name = self.name(item)
        return [f"{name}/time_ids", *(f"{name}/view{view}" for view in range(self.views))]

    def _lacks(self, item: int, view: int) -> bool:
        return f"{self.name(item)}/view{view}" not in self.store

    def row_bytes(self) -> int:
        channels, height, width = self.model.latent_shape(self.resolution_px)
        return self.views * 2 * channels * height * width * KEPT.itemsize

    def at_once(self, group: str) -> int:
        height, width = map(int, group.split("x"))
        return pictures_at_once(height, width)

    def read(self, item: int) -> Crop:
        return read_crop(self.pairs, item, self.resolution_px)

    def encode(self, items: list[int], read: list[Crop], pad_to: int) -> dict[str, Tensor]:
        pixels = torch.stack([crop.pixels for crop in _padded(read, read[-1], pad_to)])
        rows = {
            f"{self.name(item)}/time_ids": torch.tensor(crop.time_ids) for item, crop in zip(items, read, strict=True)
        }
        lacking = [view for view in range(self.views) if any(self._lacks(item, view) for item in items)]
        for view in lacking:
            posterior = encode_posterior(self.model, pixels.flip(-1) if view else pixels)
            moments = torch.stack(posterior, dim=1)[: len(items)].to("cpu", KEPT)
            check_finite(self.pairs, items, moments)
            rows |= {f"{self.name(item)}/view{view}": row for item, row in zip(items, moments, strict=True)}
        return rows


@dataclass
class PromptRows:
    """States of one text encoder; an item is a prompt."""

    root: Path
    model: DiffusionModel
    prompts: list[str]
    index: int  # of the encoder

    def __post_init__(self) -> None:
        encoder = self.model.text_encoders[self.index]
        self.module, self.width = cast(torch.nn.Module, encoder), int(encoder.config.get_text_config().hidden_size)
        self.what = f"prompts by text encoder {self.index + 1}"
        key = {
            "format": FORMAT,
            "family": self.model.family.name,
            "encoder": self.index,
            "weights": digest(self.module),
        }
        self.store = RowStore(self.root, "text", key)
        weights_bytes = 4 * sum(weight.numel() for weight in self.module.parameters())
        self.too_little_memory = (
            f"for text encoder {self.index + 1} of {weights_bytes:,} bytes: only it is on the device yet, so smaller"
            " batches do not help. End what else runs there, or fill the cache on a larger device: later runs find it."
        )

    @cached_property
    def hashes(self) -> list[str]:
        """Of each prompt's text and tokens, and of what stands for "": a prompt is known by what comes of it."""
        found, empty = [], b"zeros" if self.model.zero_empty_prompt else b""
        for start in range(0, len(self.prompts), TOKENIZED_AT_ONCE):
            texts = self.prompts[start : start + TOKENIZED_AT_ONCE]
            tokens = text_tokens(self.model, self.index, texts).ids.numpy()
            found += [
                hashlib.sha256((text.encode() or empty) + row.tobytes()).hexdigest()
                for text, row in zip(texts, tokens, strict=True)
            ]
        return found

    def groups(self) -> dict[str, list[int]]:
        return {PROMPTS: list(range(len(self.prompts)))}

    def names(self, item: int) -> list[str]:
        return [f"{self.hashes[item]}/{part}" for part in self._parts]

    @cached_property
    def _parts(self) -> list[str]:
        return list(self.model.family.text[self.index].gives)

    def row_bytes(self) -> int:
        return text_tokens(self.model, self.index, [""]).ids.numel() * self.width * KEPT.itemsize

    def at_once(self, group: str) -> int:
        return MOST_AT_ONCE

    def read(self, item: int) -> str:
        return self.prompts[item]

    def encode(self, items: list[int], read: list[str], pad_to: int) -> dict[str, Tensor]:
        texts, rows = encode_text(self.model, self.index, _padded(read, "", pad_to)), dict[str, Tensor]()
        for part in self._parts:
            values = getattr(texts, part)[: len(items)].to("cpu", KEPT)
            check_finite_prompts(read, values)
            lengths = [None] * len(items) if texts.mask is None else texts.mask.sum(1).tolist()
            for item, row, length in zip(items, values, lengths, strict=False):
                rows[f"{self.hashes[item]}/{part}"] = row[:length]
        return rows


def _padded(items: list[Any], filler: Any, count: int) -> list[Any]:
    return items + [filler] * (count - len(items))
