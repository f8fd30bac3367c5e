"""This process is the only worker."""

from collections.abc import Sequence
from dataclasses import dataclass

from curate.embed.engines import Report, T, Work


@dataclass(frozen=True)
class Serial:
    """All tasks in turn, on one device."""

    device: str

    def run(self, work: Work[T], tasks: Sequence[T], report: Report) -> None:
        """As `Engine.run`; when this process dies, nobody is left to hand anything out again."""
        work(self.device, iter(tasks), report)
