"""One job done: pairs selected, policy trained, outcome examined, result written."""

import json
import time
from dataclasses import replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.reproduction.arms import Job
from benchmarks.reproduction.curation import Chosen, Selection, chosen_pairs
from benchmarks.reproduction.outcome import Examiner, make_examiner
from benchmarks.reproduction.trainer import PicturesInMemory, in_memory, pair_set, train_policy
from benchmarks.reproduction.world import Size, open_world
from curate.storage.tables import atomic_path, write_text

SHOWN = 12  # test prompts of which pictures are kept


def results_folder(work: Path) -> Path:
    """Where results lie, one JSON file for each job."""
    return work / "results"


class Bench:
    """What jobs share: the world, its pictures as latents, the examiner of each seed, and rankings."""

    def __init__(self, work: Path, size: Size) -> None:
        self.work = work
        self.world, self.base = open_world(work, size)

    @cached_property
    def _memory(self) -> PicturesInMemory:
        return in_memory(self.world)

    @lru_cache(maxsize=8)  # noqa: B019  - a bench lives as long as its process
    def _examiner(self, seed: int) -> Examiner:
        return make_examiner(self.world, self.base.denoiser, seed)

    @lru_cache(maxsize=32)  # noqa: B019
    def _chosen(self, selection: Selection, accuracy: float, seed: int) -> Chosen:
        return chosen_pairs(self.work / "runs", self.world, selection, accuracy, seed)

    def do(self, job: Job) -> dict[str, Any]:
        """Train and examine; the result is written under the job's key and returned."""
        began, arm = time.process_time(), job.arm
        examiner = self._examiner(job.seed)
        chosen = self._chosen(arm.selection, arm.accuracy, job.seed)
        curve: list[dict[str, float]] = []

        def observe(step: int, policy: torch.nn.Module, means: dict[str, float]) -> None:
            if step in arm.snapshots:
                found, pictures = examiner.examine(policy)
                curve.append({"step": step, **found, **means})
                if step == arm.snapshots[-1]:
                    self._keep(job.key, pictures[examiner.of_group["test"]][:SHOWN])

        training = replace(arm.training, steps=arm.snapshots[-1])
        train_policy(self.base, training.recipe(job.seed), pair_set(self.world, chosen), self._memory, observe)
        result = {
            "experiment": arm.experiment,
            "arm": arm.name,
            "settings": job.settings,
            "selection": chosen.facts(self.world),
            "base_truth": {name: float(examiner.base_truth[rows].mean()) for name, rows in examiner.of_group.items()},
            "curve": curve,
            "cpu_sec": round(time.process_time() - began, 2),
        }
        write_text(json.dumps(result, indent=1) + "\n", results_folder(self.work) / f"{job.key}.json")
        return result

    def _keep(self, key: str, pictures: np.ndarray) -> None:
        """The first pictures of the test, side by side, as one PNG."""
        row = np.concatenate(list(pictures), axis=1)
        with atomic_path(self.work / "pictures" / f"{key}.png") as temporary:
            Image.fromarray(np.rint(row * 255).astype(np.uint8)).save(temporary, "PNG")
