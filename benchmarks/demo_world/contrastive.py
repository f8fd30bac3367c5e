"""Contrastive training of the judges on drawings whose caption is known, and on spoilt ones."""

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from benchmarks.demo_world.degrade import degrade
from benchmarks.demo_world.progress import Progress
from benchmarks.demo_world.scenes import edit_scene, random_scene, render
from benchmarks.demo_world.towers import Tower

SCENES_PER_STEP = 32
LEARNING_RATE = 1.5e-3


def train_contrastive(tower: Tower, seed: int, steps: int, name: str) -> None:
    """CLIP's loss where half of the batch are one-word edits of the other half.

    Spoilt drawings join as wrong answers for the captions (text to image only), so a blurred picture
    scores below a crisp one for the same words.
    """
    rng = np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(tower.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps, pct_start=0.1)
    progress = Progress(name, steps)
    tower.train()
    for _ in range(steps):
        loss, accuracy = contrastive_loss(tower, rng)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(tower.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        progress.step(loss=loss.item(), accuracy=accuracy)
    tower.eval()


def contrastive_loss(tower: Tower, rng: np.random.Generator) -> tuple[Tensor, float]:
    """The loss of one fresh batch and the share of pictures that find their caption in it."""
    scenes = [random_scene(rng) for _ in range(SCENES_PER_STEP)]
    scenes += [edit_scene(rng, scene) for scene in scenes]
    drawings = [render(scene, rng) for scene in scenes]
    spoilt = [degrade(rng, drawing) for drawing in drawings[::2]]
    images = tower.image_embedding(stack_pictures(drawings + spoilt))
    texts = tower.text_embedding([scene.caption for scene in scenes])
    logits = tower.scale * images @ texts.T  # (drawings + spoilt, captions)
    target = torch.arange(len(scenes))
    loss = cross_entropy(logits[: len(scenes)], target) + cross_entropy(logits.T, target)
    accuracy = (logits[: len(scenes)].argmax(dim=1) == target).float().mean().item()
    return loss / 2, accuracy


def stack_pictures(pictures: list[np.ndarray]) -> Tensor:
    """Pictures in [0, 1] as a batch, (b, 3, 64, 64)."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()
