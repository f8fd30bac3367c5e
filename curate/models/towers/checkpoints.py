"""A checkpoint's weights in a model: no random numbers or log lines first, and every weight or one sentence."""

import logging
import pickle
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FunctionType
from typing import Any

import torch
from safetensors import SafetensorError
from torch.overrides import TorchFunctionMode

from curate.models.batch_limit import first_sentence, out_of_memory

LOADING_ERRORS = (
    *(OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError, EOFError, AssertionError),
    *(pickle.UnpicklingError, SafetensorError),
)
"""What libraries raise for a file that is not the checkpoint of the model."""
FILLS = {f"{how}{what}_" for how in ("", "kaiming_", "xavier_") for what in ("normal", "uniform")}
"""Functions of torch.nn.init, which transformers wraps by the same names; trunc_normal_ draws until it is content."""
MISMATCH = re.compile(
    r"size mismatch for (\S+): copying a param with shape torch\.Size\(\[(.*?)\]\) from checkpoint, "
    r"the shape in current model is torch\.Size\(\[(.*?)\]\)"
)


class _Unfilled(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if isinstance(func, FunctionType) and func.__name__ in FILLS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


@contextmanager
def unfilled() -> Iterator[None]:
    """Models made in this block leave their weights unset, where a checkpoint will replace each.

    Random numbers for a ViT-H take longer than reading its weights, and touch as much memory. Unlike on torch's meta
    device, what no checkpoint holds (an attention mask, the places of positions) is computed as ever.
    """
    with _Unfilled():
        yield


@contextmanager
def quiet(logger: str | None = None) -> Iterator[None]:
    """open_clip logs on the root logger while it loads, also warnings that do not concern the user."""
    log = logging.getLogger(logger)
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


def read_checkpoint(path: Path) -> Any:
    """A `.pt` of tensors, without unpickling code. Raises: LOADING_ERRORS."""
    return torch.load(path, map_location="cpu", weights_only=True)


def differences(missing: list[str], extra: list[str], shapes: list[tuple[str, Any, Any]]) -> str:
    """In words, where a checkpoint is not that of the architecture; "" where it is. shapes: name, found, wanted."""
    found = []
    if missing:
        found.append(f"it lacks {_some(missing)}")
    if extra:
        found.append(f"it has {_some(extra)} that the model does not know")
    if shapes:
        name, there, wanted = shapes[0]
        others = f", and {len(shapes) - 1:,} more differ" if len(shapes) > 1 else ""
        found.append(f"{name} is {tuple(there)} where the model has {tuple(wanted)}{others}")
    return f"its checkpoint is not of the architecture: {'; '.join(found)}" if found else ""


def what_is_wrong(error: Exception) -> str:
    """One sentence for one of LOADING_ERRORS."""
    words = str(error)
    if out_of_memory(error):
        return f"out of memory ({first_sentence(error)}); free some, or use fewer --scorers at once"
    if isinstance(error, pickle.UnpicklingError):
        if re.search("(allowed|Unsupported) (global|class)", words):
            return "its checkpoint holds more than tensors, and unpickling that could run code; save its tensors alone"
        return "its checkpoint is none: it may be a page or a pointer in place of the file; fetch it again"
    if isinstance(error, EOFError | SafetensorError) or "PytorchStreamReader" in words:
        return f"its checkpoint is damaged or cut short ({words.split('.')[0] or 'it is empty'}); fetch it again"
    if words.startswith("Error(s) in loading state_dict"):
        return differences(_listed("Missing", words), _listed("Unexpected", words), _mismatches(words))
    if isinstance(error, AssertionError):  # open_clip's, where it would fit another size of position embeddings
        return f"its checkpoint is not of the architecture: {words}"
    return words.split("\n")[0]


def _some(names: list[str]) -> str:
    return min(names) if len(names) == 1 else f"{len(names):,} weights such as {min(names)}"


def _listed(kind: str, words: str) -> list[str]:
    found = re.search(rf"{kind} key\(s\) in state_dict: (.*?)\. ?$", words, re.MULTILINE)
    return re.findall(r'"([^"]+)"', found[1]) if found else []


def _mismatches(words: str) -> list[tuple[str, Any, Any]]:
    return [
        (name, *(map(int, re.findall(r"\d+", shape)) for shape in shapes)) for name, *shapes in MISMATCH.findall(words)
    ]
