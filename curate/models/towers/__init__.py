"""What turns images and prompts into embeddings: one model family per file, one interface for all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from curate.errors import ModelError

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from curate.models.model_set import TowerSpec


class Tower(Protocol):
    """One model. `dimension` is the embedding's length, `scale` is exp(logit_scale)."""

    name: str
    dimension: int
    scale: float
    preprocessing: str  # towers with equal values share one preprocessed picture
    identity: dict[str, Any]  # id, revision, weights' sha256: goes into run.toml

    def preprocess(self, image: Image.Image) -> torch.Tensor:
        """An RGB picture as a float32 (3, height, width) tensor.

        It must pickle without the model's weights, for the processes that decode: an attribute that is a function
        of a module or an object of its own, not a method of the tower.
        """
        ...

    def embed_images(self, pixels: torch.Tensor) -> torch.Tensor:
        """(n, 3, height, width) -> float32 (n, dimension), L2-normalised, on the CPU."""
        ...

    def embed_prompts(self, prompts: list[str]) -> torch.Tensor:
        """n prompts -> float32 (n, dimension), L2-normalised, on the CPU."""
        ...


def load_tower(spec: TowerSpec, folder: Path, device: str, precision: str) -> Tower:
    """Load one tower's weights onto `device`. Raises: ModelError naming the tower and the file."""
    from curate.models.batch_limit import device_failed
    from curate.models.towers.checkpoints import LOADING_ERRORS, what_is_wrong
    from curate.models.towers.hpsv2 import load_hpsv2
    from curate.models.towers.open_clip import load_open_clip
    from curate.models.towers.transformers_clip import load_transformers_clip

    loaders: dict[str, Callable[[TowerSpec, Path, str, str], Tower]] = {
        "open_clip": load_open_clip,
        "hpsv2": load_hpsv2,
        "transformers_clip": load_transformers_clip,
    }
    try:
        return loaders[spec.family](spec, folder, device, precision)
    except LOADING_ERRORS as error:
        if device_failed(error):
            raise
        raise ModelError(f"tower '{spec.name}' ({spec.family}) cannot be loaded: {what_is_wrong(error)}") from error
