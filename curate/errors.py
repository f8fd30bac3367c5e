"""Expected failures of `curate`. The command line turns each into one sentence and an exit code."""

import difflib
from collections.abc import Iterable

from schemas.command_line import INTERRUPTED_CODE


class CurateError(Exception):
    """Something the user can mend; the message says what, where, and what to do next."""

    exit_code = 1


class UsageError(CurateError):
    """An option's value is impossible whatever the data."""

    exit_code = 2


class ManifestError(CurateError):
    """A manifest or a set of models is malformed or missing."""


class SourceError(CurateError):
    """A source file is missing, is not Parquet, or lacks what the manifest maps."""


class ModelError(CurateError):
    """Weights are missing, of the wrong class or layout, or give unusable numbers."""


class DeviceError(CurateError):
    """A device fails or is gone: what is written stands, another process or device can go on."""


class RunError(CurateError):
    """A run directory is missing a table, is damaged, or was made under other settings."""


class QueryError(CurateError):
    """A user's SQL fails, is not a query, or returns the wrong columns."""


class WriteError(CurateError):
    """An output could not be written; nothing half-written is left in place."""


class UploadError(WriteError):
    """A finished file could not be brought to a URL; it is kept here, and a later attempt goes on with it."""


class StoppedError(CurateError):
    """Ctrl-C ended the work; the message says what stands and how to go on."""

    exit_code = INTERRUPTED_CODE


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` when some known word is close, else `; known: x, y`, if there are any."""
    known = sorted(known)
    if not known:
        return ""
    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean '{close[0]}'?" if close else f"; known: {', '.join(known)}"
