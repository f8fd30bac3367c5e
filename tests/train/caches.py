"""A latent cache filled in this process, by as many shares as a test asks for."""

from pathlib import Path

from tests.train import tiny
from train.data.latent_cache import LatentCache, cache_key, fill, prepare
from train.data.pairs import PairSet
from train.model.families import DiffusionModel
from train.terminal import Reporter


def build(
    folder: Path, model: DiffusionModel, pairs: PairSet, *, flips: bool = True, processes: int = 1
) -> LatentCache:
    key = cache_key(model, pairs, resolution_px=tiny.RESOLUTION_PX, flips=flips)
    prepare(folder, key, model, pairs, tiny.RESOLUTION_PX, views=1 + flips)
    for process in range(processes):
        quiet = Reporter(main=False)
        fill(folder, model, pairs, quiet, resolution_px=tiny.RESOLUTION_PX, share=(process, processes))
    return LatentCache.open(folder, pairs, tiny.RESOLUTION_PX)
