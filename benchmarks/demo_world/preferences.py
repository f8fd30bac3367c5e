"""Fine-tuning a judge on the noisy preferences, as PickScore and HPSv2 were made."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from benchmarks.demo_world.contrastive import contrastive_loss, stack_pictures
from benchmarks.demo_world.degrade import from_image
from benchmarks.demo_world.progress import Progress
from benchmarks.demo_world.scenes import Picture
from benchmarks.demo_world.tournaments import CONTROL_UID, Round
from benchmarks.demo_world.towers import Tower

PAIRS_PER_STEP = 48
LEARNING_RATE = 4e-4
CONTRASTIVE_WEIGHT = 0.3  # keeps the judge from forgetting what words mean
CONTRASTIVE_EVERY = 2  # steps
HELD_OUT_SHARE = 0.1  # of prompts, on which agreement is measured


@dataclass(frozen=True)
class Preference:
    """One judgement that is not a tie and shows no control image."""

    prompt: str
    image_uids: tuple[str, str]
    label_0: float


def usable_preferences(rounds: Sequence[Round]) -> list[Preference]:
    """Rounds that were judged, preferred a side, and show two drawings."""
    return [
        Preference(round_.prompt, round_.image_uids, round_.label_0)
        for round_ in rounds
        if round_.label_0 in (0.0, 1.0) and CONTROL_UID not in round_.image_uids and round_.label_0 is not None
    ]


def split_by_prompt(preferences: Sequence[Preference]) -> tuple[list[Preference], list[Preference]]:
    """(to fit, held out): the last HELD_OUT_SHARE of the prompts judge the judges."""
    prompts = list(dict.fromkeys(preference.prompt for preference in preferences))
    held = set(prompts[round(len(prompts) * (1 - HELD_OUT_SHARE)) :])
    fit = [preference for preference in preferences if preference.prompt not in held]
    return fit, [preference for preference in preferences if preference.prompt in held]


def decode(pictures: Mapping[str, bytes]) -> dict[str, Picture]:
    """Encoded bytes to RGB in [0, 1]."""
    return {uid: from_image(Image.open(io.BytesIO(encoded))) for uid, encoded in pictures.items()}


def fine_tune(
    tower: Tower, preferences: Sequence[Preference], pictures: Mapping[str, Picture], seed: int, steps: int, name: str
) -> None:
    """Raise the preferred picture's scaled cosine over the other's: PickScore's loss (arXiv 2305.01569, eq. 2)."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    optimizer = torch.optim.AdamW(tower.parameters(), lr=LEARNING_RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps, pct_start=0.1)
    progress = Progress(f"{name} preferences", steps)
    tower.train()
    for step in range(steps):
        chosen = [preferences[i] for i in rng.integers(len(preferences), size=PAIRS_PER_STEP)]
        loss = preference_loss(tower, chosen, pictures)
        total = loss
        if step % CONTRASTIVE_EVERY == 0:
            total = loss + CONTRASTIVE_EVERY * CONTRASTIVE_WEIGHT * contrastive_loss(tower, rng)[0]
        optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(tower.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        progress.step(loss=loss.item())
    tower.eval()


def preference_loss(tower: Tower, chosen: Sequence[Preference], pictures: Mapping[str, Picture]) -> Tensor:
    """Cross entropy of the softmax over two scaled cosines against the label."""
    sides = [tower.image_embedding(stack_pictures([pictures[p.image_uids[side]] for p in chosen])) for side in (0, 1)]
    texts = tower.text_embedding([preference.prompt for preference in chosen])
    difference = tower.scale * ((sides[0] - sides[1]) * texts).sum(dim=1)
    return binary_cross_entropy_with_logits(difference, torch.tensor([p.label_0 for p in chosen]))


@torch.inference_mode()
def cosines(tower: Tower, prompts: Sequence[str], pictures: Sequence[Picture]) -> np.ndarray:
    """Cosine of each picture with its own prompt, (n,)."""
    parts = []
    for start in range(0, len(prompts), 256):
        images = tower.image_embedding(stack_pictures(list(pictures[start : start + 256])))
        texts = tower.text_embedding(list(prompts[start : start + 256]))
        parts.append((images * texts).sum(dim=1))
    return torch.cat(parts).numpy()
