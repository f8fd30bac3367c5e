"""Preprocessings that kill the process that runs them, by real signals, as a decoder's bug or a full memory would."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from benchmarks.speed.cheap import cheap_pixels

DEADLY_SIZE = (13, 13)


def deadly_pixels(image: Image.Image) -> torch.Tensor:
    """A picture of DEADLY_SIZE kills the process that prepares it, by a real signal, as a decoder's bug would."""
    if image.size == DEADLY_SIZE:
        os.kill(os.getpid(), signal.SIGSEGV)
    return cheap_pixels(image)


@dataclass(frozen=True)
class OnceDeadly:
    """As deadly_pixels, by SIGKILL, and the first time only: afterwards `mark` is there."""

    mark: Path

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """(3, 8, 8), float32."""
        if image.size == DEADLY_SIZE and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return cheap_pixels(image)
