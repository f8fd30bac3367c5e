"""Standard streams that are closed, full, or cannot show a character, and arguments that are no text."""

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from curate.errors import UsageError, WriteError


@contextmanager
def sound_streams() -> Iterator[None]:
    """Within it a closed stream is an empty one, and stdout shows what its encoding lacks by escapes, as stderr does.

    Raises: WriteError when stdout takes no more; UsageError for an argument of bytes that are no UTF-8.
    """
    for name, mode in {"stdin": "r", "stdout": "w", "stderr": "w"}.items():
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115 -- open until the end
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except (UnicodeEncodeError, TypeError) as error:  # DuckDB finds such text to be of no type that it takes
        if not (odd := [text for text in sys.argv if not _is_text(text)]):
            raise
        raise UsageError(f"the argument {os.fsencode(odd[0])!r} is not UTF-8 text") from error
    except OSError as error:
        if error.errno != errno.ENOSPC or error.filename is not None:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is left would be tried again at the end
        raise WriteError(f"standard output could not be written: {error.strerror}") from error


def _is_text(argument: str) -> bool:
    """Whether it has none of the halves of characters that stand for bytes that are no UTF-8."""
    return not any("\ud800" <= letter <= "\udfff" for letter in argument)
