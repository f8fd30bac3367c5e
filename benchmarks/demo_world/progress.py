"""Plain progress lines on stderr: one in a hundred steps, with the mean of what was measured since."""

import sys
import time


class Progress:
    """Counts steps of a named job and reports means every `every` steps."""

    def __init__(self, job: str, total: int, every: int = 100) -> None:
        self.job, self.total, self.every = job, total, every
        self.done = 0
        self.started_sec = time.monotonic()
        self.sums: dict[str, float] = {}

    def step(self, **measured: float) -> None:
        """Count one step; each keyword is a number to average."""
        self.done += 1
        for name, value in measured.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        if self.done % self.every == 0 or self.done == self.total:
            self._report()

    def _report(self) -> None:
        steps = self.done % self.every or self.every
        means = " ".join(f"{name} {value / steps:.4f}" for name, value in self.sums.items())
        elapsed_sec = time.monotonic() - self.started_sec
        print(f"{self.job} {self.done}/{self.total} {means} {elapsed_sec:.0f}s", file=sys.stderr, flush=True)
        self.sums = {}
