"""The checks of shapes and types in `train` must be in place before anything here imports it."""

from tests.train import conftest  # noqa: F401
