"""Pictures a second and core: bytes to every scorer's pixels, with shared steps and without; and JPEG decoders.

    python -m benchmarks.speed.preprocess [--images 12] [--rounds 7]

apart: each preprocessing by itself, as its library does it. shared: as `curate embed` does it. Both decode by Pillow,
on one thread, and give equal pixels, which is checked. CPU time of the thread, in turns; medians, and the slowest.
decode: torchvision's libjpeg-turbo beside Pillow's, and the largest difference of a value, of 255.
"""

import argparse
import io
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from benchmarks.speed.photos import photo
from curate.embed.decode.decoders import DecodedOnDevice, TorchvisionDecoder
from curate.embed.decode.steps import Preprocess, all_pixels
from curate.embed.decode.taken_apart import taken_apart
from curate.models.image_reward import image_reward_transform
from curate.models.towers.hpsv2 import hpsv2_transform
from curate.models.towers.transformers_clip import ProcessorPixels
from curate.sources.images import Decoded, decode

SIDES_PX = (512, 768, 1024)


def published() -> dict[str, dict[str, Preprocess]]:
    """Sets of scorers, each with its preprocessings of 224 px."""
    clip = {"clip": image_transform_v2(PreprocessCfg(size=224), is_train=False)}
    default = clip | {"pickscore": ProcessorPixels(CLIPImageProcessorPil())}
    with_hpsv2: dict[str, Preprocess] = default | {"hpsv2": hpsv2_transform(224)}
    every = with_hpsv2 | {"image_reward": image_reward_transform(224)}
    return {"clip,pickscore,aesthetic": default, "… and hpsv2": with_hpsv2, "… and image_reward": every}


def picture(data: bytes) -> Image.Image:
    """One that is sound."""
    found = decode(data)
    assert isinstance(found, Decoded)
    return found.image


def rates(images: list[bytes], rounds: int, ways: dict[str, Callable[[bytes], Any]]) -> dict[str, list[float]]:
    """Pictures a second of CPU time of this thread, for each way and round; the ways take turns."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, work in ways.items():
            began = time.thread_time()
            for data in images:
                work(data)
            found[name].append(len(images) / (time.thread_time() - began))
    return found


def compared(images: list[bytes], rounds: int, whole: dict[str, Preprocess]) -> dict[str, Any]:
    """Shared steps beside each preprocessing by itself."""
    steps = {name: taken_apart(one) or one for name, one in whole.items()}

    def apart(data: bytes) -> dict[str, torch.Tensor]:
        image = picture(data)
        return {name: one(image) for name, one in whole.items()}

    def shared(data: bytes) -> dict[str, torch.Tensor]:
        return dict(all_pixels(picture(data), steps))

    expected = apart(images[0])
    assert all(torch.equal(values, expected[name]) for name, values in shared(images[0]).items())
    return summary(rates(images, rounds, {"apart": apart, "shared": shared}))


def decoders(images: list[bytes], rounds: int) -> dict[str, Any]:
    """Decoding alone."""
    turbo = TorchvisionDecoder("cpu")

    def by_torchvision(data: bytes) -> np.ndarray:
        found = turbo([data])[0]
        assert isinstance(found, DecodedOnDevice)
        return found.image.permute(1, 2, 0).numpy()

    def by_pillow(data: bytes) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(data)))

    delta = max(np.abs(by_torchvision(one).astype(int) - by_pillow(one)).max() for one in images)
    return summary(rates(images, rounds, {"pillow": by_pillow, "torchvision": by_torchvision})) | {"delta": int(delta)}


def summary(found: dict[str, list[float]]) -> dict[str, Any]:
    """Medians, slowest rounds, and the median and the smallest of the rounds' ratios."""
    first, second = found
    ratios = [after / before for before, after in zip(found[first], found[second], strict=True)]
    medians = {name: round(statistics.median(values), 1) for name, values in found.items()}
    slowest = {f"{name}_slowest": round(min(values), 1) for name, values in found.items()}
    return medians | slowest | {"ratio": round(statistics.median(ratios), 2), "ratio_slowest": round(min(ratios), 2)}


def main() -> None:
    """Print a line for each size and set, then one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    report: list[dict[str, Any]] = []
    for side_px in SIDES_PX:
        images = [photo(seed, side_px) for seed in range(options.images)]
        report += [
            {"px": side_px, "what": name} | compared(images, options.rounds, whole)
            for name, whole in published().items()
        ]
        report.append({"px": side_px, "what": "decode"} | decoders(images, options.rounds))
        for row in report[-4:]:
            print(row, flush=True)
    print(json.dumps({"benchmark": "preprocess", "rows": report}))


if __name__ == "__main__":
    main()
