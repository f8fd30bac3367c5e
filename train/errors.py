"""Expected failures, each one clear sentence; `cli.py` alone turns them into messages and exit codes."""


class TrainError(Exception):
    """An expected failure: what went wrong, where, and what to do next, in one sentence."""

    exit_code = 1


class SettingsError(TrainError):
    """An unknown preset, key or value: the command was asked for something that does not exist."""

    exit_code = 2


class ShardError(TrainError):
    """Shards that are missing, incomplete, changed, empty or hold something that is not an image."""


class ModelError(TrainError):
    """A model that cannot be found, is of another class, or does not fit the recipe."""


class RunDirectoryError(TrainError):
    """An output directory that holds another run, or a checkpoint that does not fit this one."""


class CacheError(TrainError):
    """A latent cache that was made of something else, or cannot be read."""


class MemoryFullError(TrainError):
    """The recipe needs more memory than there is."""


class DivergenceError(TrainError):
    """Step after step gave no finite gradient, or one beyond the limit."""


class RunStoppedError(TrainError):
    """A signal ended the run; what it had done is saved."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class StorageError(TrainError):
    """A file could not be written; what was there before is untouched."""


class PromptError(TrainError):
    """A prompt file that cannot be read or holds no prompt."""


def shortened(text: str) -> str:
    """A value as a message quotes it: the first of its characters."""
    return text if len(text) <= 40 else f"{text[:37]}..."
