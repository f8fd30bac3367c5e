"""The aesthetic head: a rating of 1 to 10 for how clean a picture looks, whatever its prompt.

The rating it learns is closed-form: the farther pixels are from the palette's pure colours, the lower.

    rating(picture) = 10 - 9 min(1, rms over pixels of the distance to the nearest pure colour / FULL_MUSH)
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.demo_world.contrastive import stack_pictures
from benchmarks.demo_world.degrade import degrade
from benchmarks.demo_world.scenes import BACKGROUNDS, COLOURS, Picture, random_scene, render
from benchmarks.demo_world.towers import Tower

FULL_MUSH = 0.16  # RGB distance, root mean square, at which the rating reaches 1
HIDDEN_SIZES = (32, 16, 16, 8)
FIT_STEPS = 1500
LEARNING_RATE = 3e-3
_PALETTE = np.array([*COLOURS.values(), *BACKGROUNDS.values()], dtype=np.float32)


def rating(picture: Picture) -> float:
    """1 (mush) to 10 (flat pure colours with crisp edges)."""
    distances = np.square(picture[:, :, None, :] - _PALETTE).mean(axis=-1).min(axis=-1)
    return 10.0 - 9.0 * min(1.0, float(np.sqrt(distances.mean())) / FULL_MUSH)


class AestheticHead(nn.Module):
    """LAION's improved-aesthetic-predictor: five linear layers, dropout between, no activation.

    Its state_dict has LAION's keys: layers.0, layers.2, layers.4, layers.6, layers.7.
    """

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        a, b, c, d = HIDDEN_SIZES
        self.layers = nn.Sequential(
            nn.Linear(embed_dim, a),
            nn.Dropout(0.2),
            nn.Linear(a, b),
            nn.Dropout(0.2),
            nn.Linear(b, c),
            nn.Dropout(0.1),
            nn.Linear(c, d),
            nn.Linear(d, 1),
        )

    def forward(self, embeddings: Tensor) -> Tensor:
        """Normalised embeddings (b, d) to ratings (b,)."""
        ratings: Tensor = self.layers(embeddings)[:, 0]
        return ratings


def train_head(tower: Tower, drawn: Sequence[Picture], seed: int) -> AestheticHead:
    """Fit on perfect, spoilt and drawn pictures by their closed-form rating; the tower stays as it is."""
    pictures = [*_made_up_pictures(np.random.default_rng(seed), len(drawn)), *drawn]
    embeddings = embed(tower, pictures)
    ratings = torch.tensor([rating(picture) for picture in pictures])
    torch.manual_seed(seed)
    head = AestheticHead(embeddings.shape[1]).eval()  # without dropout: an affine map needs none
    optimizer = torch.optim.AdamW(head.parameters(), lr=LEARNING_RATE, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, FIT_STEPS)
    for _ in range(FIT_STEPS):
        index = torch.randint(len(ratings), (512,))
        loss = (head(embeddings[index]) - ratings[index]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return head


@torch.no_grad()
def embed(tower: Tower, pictures: Sequence[Picture]) -> Tensor:
    """L2-normalised image embeddings, (n, d)."""
    parts = [pictures[start : start + 256] for start in range(0, len(pictures), 256)]
    return torch.cat([tower.image_embedding(stack_pictures(list(part))) for part in parts])


@torch.no_grad()
def predict(head: AestheticHead, embeddings: Tensor) -> np.ndarray:
    """Ratings of normalised embeddings, (n,)."""
    scores: np.ndarray = head(embeddings).numpy()
    return scores


def _made_up_pictures(rng: np.random.Generator, count: int) -> list[Picture]:
    drawings = [render(random_scene(rng), rng) for _ in range(count)]
    return [degrade(rng, drawing) if rng.random() < 0.5 else drawing for drawing in drawings]
