"""People's judgements: an append-only log for each reviewer that loses none, and how far reviewers agree.

A line of the log is one JSON document, synced to the disk before the judgement is acknowledged. Undoing appends, too.
"""

import errno
import hashlib
import itertools
import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import lock_descriptor
from sklearn.metrics import cohen_kappa_score

from curate.errors import RunError, UsageError
from curate.storage.tables import writing

FORMAT = "pairsieve-review-1"
CHOICES = ("left", "right", "tie", "both_bad")
_NAME = re.compile(r"\w[\w.-]{0,63}")


@dataclass(frozen=True)
class Judgement:
    """One choice. place: of the pair in the order of the review, from 0. left_side: which image stood on the left."""

    pair_id: str
    place: int
    left_side: int
    choice: str
    seconds: float

    @property
    def preferred_side(self) -> int | None:
        """0 or 1, or None for a tie: of two good pictures, or of two bad ones."""
        return {"left": self.left_side, "right": 1 - self.left_side}.get(self.choice)


def shown_order(pair_ids: list[str], seed: int) -> list[str]:
    """The order of the review: by seed, the same for every reviewer, so that they judge the same pairs first."""
    return sorted(pair_ids, key=lambda pair_id: _digest(seed, pair_id))


def left_side(seed: int, reviewer: str, pair_id: str) -> int:
    """Which of a pair's images stands on the left, by seed and reviewer."""
    return _digest(seed, reviewer, pair_id)[0] & 1


def _digest(*words: object) -> bytes:
    return hashlib.sha256("\0".join(map(str, words)).encode()).digest()


def check_reviewer(name: str) -> str:
    """The name becomes a file's. Raises UsageError."""
    if not _NAME.fullmatch(name):
        raise UsageError(f"--reviewer {name}: letters, digits, '_', '.' and '-' only, a letter or digit first")
    return name


class Log:
    """One reviewer's log, open for writing; `judged` are the judgements that stand, in order.

    Raises: RunError when it was begun with another seed, is damaged, or is open elsewhere; WriteError.
    """

    def __init__(self, path: Path, reviewer: str, seed: int) -> None:
        self.path = path
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._stream = path.open("a+b", buffering=0)
        try:
            self.judged = self._begin(reviewer, seed)
        except BaseException:
            self._stream.close()
            raise

    def _begin(self, reviewer: str, seed: int) -> list[Judgement]:
        """What stands; a new log gets its head."""
        if not lock_descriptor(self._stream.fileno(), blocking=False):
            raise RunError(f"{reviewer} is reviewing in another process; end it, or take another --reviewer")
        _cut_torn_line(self._stream)
        head, judged = read_log(self.path)
        if head is None:
            self._append({"format": FORMAT, "reviewer": reviewer, "seed": seed})
        elif head["seed"] != seed:
            raise RunError(
                f"{self.path} was begun with --seed {head['seed']}; go on with that, or take another --reviewer"
            )
        return judged

    def judge(self, judgement: Judgement) -> None:
        """Add one; it is on the disk when this returns."""
        self._append(asdict(judgement))
        self.judged.append(judgement)

    def undo(self) -> None:
        """Take the last one back, if there is one."""
        if self.judged:
            self._append({"undo": self.judged[-1].pair_id})
            self.judged.pop()

    def close(self) -> None:
        """Let the file and its lock go."""
        self._stream.close()

    def _append(self, document: dict[str, Any]) -> None:
        line, descriptor = json.dumps(document).encode() + b"\n", self._stream.fileno()
        with writing(self.path):
            end = os.fstat(descriptor).st_size
            try:
                if os.write(descriptor, line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(descriptor)
            except OSError:  # what is refused must not come back
                os.ftruncate(descriptor, end)
                raise


def _cut_torn_line(stream: Any) -> None:
    """What a killed process left of its last line goes; it was never acknowledged."""
    stream.seek(0)
    whole = stream.read().rfind(b"\n") + 1
    stream.truncate(whole)


def read_log(path: Path) -> tuple[dict[str, Any] | None, list[Judgement]]:
    """The head of a log and the judgements that stand; None for a log without a line. Raises: RunError."""
    try:
        lines = [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
        head, *documents = [json.loads(line) for line in lines] or [None]
        if head is not None and head["format"] != FORMAT:
            raise ValueError(f"its format is {head['format']}")
        judged: list[Judgement] = []
        for document in documents:
            if "undo" not in document:
                judged.append(Judgement(**document))
            elif judged.pop().pair_id != document["undo"]:
                raise ValueError("an undo of another pair than the last")
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise RunError(f"{path} is damaged ({error}); mend its last line, or move it away") from error
    return head, judged


def agreement(judged: dict[str, list[Judgement]]) -> list[dict[str, Any]]:
    """Of every two reviewers: pairs that both judged, the share judged alike, and Cohen's kappa.

    kappa: 0 is what chance gives, 1 is perfect; None where both gave one and the same answer only, or share no pair.
    Cohen, Educational and Psychological Measurement 20, 1960, over the answers 0, 1 and tie (both bad is one).
    """
    answers = {name: {one.pair_id: _answer(one) for one in items} for name, items in judged.items()}
    found = []
    for one, other in itertools.combinations(sorted(answers), 2):
        shared = sorted(answers[one].keys() & answers[other].keys())
        first, second = ([answers[name][pair_id] for pair_id in shared] for name in (one, other))
        alike = sum(a == b for a, b in zip(first, second, strict=True))
        kappa = float(cohen_kappa_score(first, second)) if len({*first, *second}) > 1 else None
        share = alike / len(shared) if shared else None
        found.append({"reviewers": [one, other], "pairs": len(shared), "alike": share, "kappa": kappa})
    return found


def _answer(judgement: Judgement) -> str:
    return "tie" if judgement.preferred_side is None else str(judgement.preferred_side)
