"""Pictures by the tiny Stable Diffusion, under settings from careless to careful."""

import io
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from benchmarks.demo_world.degrade import to_image
from benchmarks.demo_world.progress import Progress
from benchmarks.demo_world.scenes import IMAGE_SIZE_PX, Picture

BATCH_PICTURES = 64
PNG_SHARE = 0.03
JPEG_QUALITY = 82
GUIDANCE_SCALES = (1.0, 2.0, 4.0)
STEP_COUNTS = (4, 6, 10)
UID_NAMESPACE = uuid.UUID("0d6f3f0e-6a5b-4d52-9d2c-3a1f6f1c9b10")


@dataclass(frozen=True)
class Order:
    """One picture to draw."""

    prompt: str
    seed: int
    guidance: float
    steps: int

    @property
    def model(self) -> str:
        return f"tiny-sd-cfg{self.guidance:g}-steps{self.steps}"

    @property
    def image_uid(self) -> str:
        return str(uuid.uuid5(UID_NAMESPACE, f"{self.model}/{self.seed}"))


def random_order(rng: np.random.Generator, prompt: str, seed: int) -> Order:
    """The prompt under one of the settings."""
    return Order(prompt, seed, float(rng.choice(GUIDANCE_SCALES)), int(rng.choice(STEP_COUNTS)))


def draw_in_processes(folder: Path, orders: Sequence[Order], workers: int) -> dict[str, bytes]:
    """`draw_all` by the pipeline in `folder`, shared out to single-threaded processes."""
    shares = [orders[worker::workers] for worker in range(workers)]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        drawn = list(pool.map(_draw_share, [folder] * workers, shares))
    return {uid: encoded for share in drawn for uid, encoded in share.items()}


def _draw_share(folder: Path, orders: Sequence[Order]) -> dict[str, bytes]:
    torch.set_num_threads(1)
    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return draw_all(pipeline, orders)


def draw_all(pipeline: Any, orders: Sequence[Order]) -> dict[str, bytes]:
    """Encoded pictures by image_uid. Orders of one setting are drawn together."""
    progress = Progress("draw pictures", len(orders), every=512)
    encoded: dict[str, bytes] = {}
    for setting in product(GUIDANCE_SCALES, STEP_COUNTS):
        alike = [order for order in orders if (order.guidance, order.steps) == setting]
        for start in range(0, len(alike), BATCH_PICTURES):
            batch = alike[start : start + BATCH_PICTURES]
            for order, picture in zip(batch, draw(pipeline, batch), strict=True):
                encoded[order.image_uid] = encode(picture, order.seed)
                progress.step()
    return encoded


@torch.inference_mode()
def draw(pipeline: Any, orders: Sequence[Order]) -> Iterator[Picture]:
    """Pictures in [0, 1] of orders that share their setting."""
    result = pipeline(
        [order.prompt for order in orders],
        num_inference_steps=orders[0].steps,
        guidance_scale=orders[0].guidance,
        generator=[torch.Generator().manual_seed(order.seed) for order in orders],
        output_type="np",
    )
    return iter(result.images)


def encode(picture: Picture, seed: int) -> bytes:
    """JPEG bytes, or PNG for a share of the seeds."""
    buffer = io.BytesIO()
    if np.random.default_rng(seed).random() < PNG_SHARE:
        to_image(picture).save(buffer, "PNG", optimize=True)
    else:
        to_image(picture).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def control_image() -> bytes:
    """A picture that fits no prompt: a slanted grey ramp."""
    axis = np.linspace(0.2, 0.8, IMAGE_SIZE_PX, dtype=np.float32)
    ramp = (axis[:, None] + axis[None, :]) / 2
    buffer = io.BytesIO()
    Image.fromarray((ramp * 255).astype(np.uint8)).convert("RGB").save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()
