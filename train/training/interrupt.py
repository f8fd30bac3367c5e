"""SIGTERM and Ctrl-C while a run trains: noted, so that it ends where its work can be saved."""

import signal
import threading
import time
from types import FrameType
from typing import Any

from train.errors import RunStoppedError

INSIST_SEC = 2.0  # a launcher passes on the Ctrl-C that the terminal gave its processes already


class StopRequest:
    """Within its block the first SIGTERM or Ctrl-C is noted only; Ctrl-C again, later than INSIST_SEC, ends at once."""

    def __init__(self) -> None:
        self._caught: signal.Signals | None = None
        self._caught_at = 0.0
        self._before: dict[signal.Signals, Any] = {}

    @property
    def asked(self) -> bool:
        """Whether this process was told to end."""
        return self._caught is not None

    def stopped(self, done: int, steps: int) -> RunStoppedError:
        """What ends the run after `done` of `steps` steps, which stand in a checkpoint."""
        caught = self._caught or signal.SIGTERM  # by another process, where this one heard of none
        after = f"after step {done} of {steps}; it is saved, and the same command with --resume goes on from there"
        return RunStoppedError(
            f"stopped by {caught.name} {after if done else 'before the first step was done'}.", 128 + caught
        )

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():  # Python gives signals to no other
            self._before = {one: signal.signal(one, self._note) for one in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for one, handler in self._before.items():
            signal.signal(one, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        now = time.monotonic()
        if self._caught is None:
            self._caught, self._caught_at = signal.Signals(number), now
        elif number == signal.SIGINT and now - self._caught_at > INSIST_SEC:
            raise KeyboardInterrupt
