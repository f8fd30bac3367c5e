"""Silence for the progress bars of libraries, so that stderr carries ours alone."""

from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging


def hush() -> None:
    """Call once, when a command starts; never at import."""
    for library in (diffusers_logging, transformers_logging):
        library.disable_progress_bar()
        library.set_verbosity_error()
