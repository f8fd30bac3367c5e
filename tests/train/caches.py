"""A latent cache filled in this process."""

from pathlib import Path

from accelerate import Accelerator

from tests.train import tiny
from train.data.latent_cache.cache import LatentCache, open_cache
from train.data.pairs import PairSet
from train.model.families import DiffusionModel
from train.terminal import Reporter


def build(folder: Path, model: DiffusionModel, pairs: PairSet, *, flips: bool = True) -> LatentCache:
    accelerator, reporter = Accelerator(cpu=True), Reporter(main=False)
    return open_cache(folder, model, pairs, accelerator, reporter, resolution_px=tiny.RESOLUTION_PX, flips=flips)
