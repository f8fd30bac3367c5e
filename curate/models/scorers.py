"""What a scorer is: one float for each of n matched rows of a prompt and a picture.

The built-in heads (curate/models/heads.py), cross-encoders (curate/models/image_reward.py) and a user's own class
(curate/models/plugins.py, docs/scorers.md) all meet this one protocol; they differ in what of a row they read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from PIL import Image

from curate.errors import ModelError


@dataclass(frozen=True)
class Matched:
    """n (prompt, picture) rows of one batch. A picture with several prompts has several rows.

    texts: n prompts. embeddings: of the scorer's tower, pictures' and prompts', each float32 (n, dimension),
    L2-normalised; None for a scorer without a tower. pictures: what `preprocess` made of the m different pictures,
    (m, …), and for each row its picture's place among them, (n,); None for a scorer without `preprocess`.
    """

    texts: list[str]
    embeddings: tuple[torch.Tensor, torch.Tensor] | None = None
    pictures: tuple[torch.Tensor, torch.Tensor] | None = None

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def images(self) -> torch.Tensor:
        """The pictures' embeddings, (n, dimension). Raises ModelError for a scorer without a tower."""
        return _given(self.embeddings, 'embeddings, so its [scorers.NAME] table needs tower = "…"')[0]

    @property
    def prompts(self) -> torch.Tensor:
        """The prompts' embeddings, (n, dimension). Raises ModelError for a scorer without a tower."""
        return _given(self.embeddings, 'embeddings, so its [scorers.NAME] table needs tower = "…"')[1]

    @property
    def pixels(self) -> torch.Tensor:
        """Each different picture once, (m, …). Raises ModelError for a scorer without `preprocess`."""
        return _given(self.pictures, "pixels, so its class needs a method preprocess(image)")[0]

    @property
    def rows(self) -> torch.Tensor:
        """The place in `pixels` of each row's picture, int64 (n,). Raises ModelError without `preprocess`."""
        return _given(self.pictures, "pixels, so its class needs a method preprocess(image)")[1]


class Scorer(Protocol):
    """Anything that is called with matched rows and gives one number for each.

    It may also have `identity`, a dict that goes into run.toml (such as its weights' sha256), and be a PixelScorer.
    """

    def __call__(self, matched: Matched) -> Any:
        """float32 (n,): a tensor, an array or a list. Higher is better, unless the scorer is named `nsfw…`."""
        ...


@runtime_checkable
class PixelScorer(Protocol):
    """A scorer that looks at the pictures themselves.

    It may also have `preprocessing`, text: those with equal text share one preprocessed picture.
    """

    def preprocess(self, image: Image.Image) -> torch.Tensor:
        """An upright RGB picture as a tensor, of one shape for all pictures. Several threads call it at once."""
        ...

    def __call__(self, matched: Matched) -> Any:
        """As Scorer."""
        ...


def preprocessing_of(name: str, scorer: PixelScorer) -> str:
    """What the scorer's preprocessed pictures go by: its own `preprocessing`, else its name."""
    return str(getattr(scorer, "preprocessing", f"scorer {name}"))


def scores_of(name: str, scorer: Scorer, matched: Matched) -> torch.Tensor:
    """The scorer's float32 (n,) on the CPU. Raises ModelError when it gives anything else than n numbers."""
    with torch.inference_mode():
        values = torch.as_tensor(scorer(matched), dtype=torch.float32).cpu()
    if values.shape != (len(matched),):
        raise ModelError(
            f"scorer '{name}' gave numbers of shape {tuple(values.shape)} for {len(matched)} rows; "
            "a scorer gives one number for each row"
        )
    return values


def _given(pair: tuple[torch.Tensor, torch.Tensor] | None, what: str) -> tuple[torch.Tensor, torch.Tensor]:
    if pair is None:
        raise ModelError(f"a scorer reads {what}")
    return pair
