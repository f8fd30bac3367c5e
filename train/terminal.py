"""Silences what libraries print, so that stderr carries ours alone."""

import threading
from functools import cache

from diffusers.utils import logging as diffusers_logging
from tensorboard.summary.writer import event_file_writer
from transformers.utils import logging as transformers_logging


@cache
def hush() -> None:
    """Call once, when a command starts; never at import."""
    for library in (diffusers_logging, transformers_logging):
        library.disable_progress_bar()
        library.set_verbosity_error()
    told = threading.excepthook

    def hook(fault: threading.ExceptHookArgs) -> None:
        """TensorBoard's thread tells the main one, at its next write, that the disk is full."""
        if not isinstance(fault.thread, event_file_writer._AsyncWriterThread):
            told(fault)

    threading.excepthook = hook
