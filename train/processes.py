"""What one of several processes does for all of them."""

from collections.abc import Callable
from typing import Any, TypeVar

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from train.errors import TrainError

Result = TypeVar("Result")


def by_one(accelerator: Accelerator, work: Callable[[], Result]) -> Result:
    """What `work` gives in the main process, for all. Where it fails there, all end with its sentence, and none waits.

    The result is sent to the others, pickled. Raises: what `work` raises.
    """
    failure: Exception | None = None
    told: list[Any] = [None, None]
    if accelerator.is_main_process:
        try:
            told[1] = work()
        except Exception as error:  # raised below, once the others have heard of it
            failure = error
            told[0] = error if isinstance(error, TrainError) else TrainError(f"The first process failed: {error!r}.")
    said, result = broadcast_object_list(told)
    if said is not None:
        raise failure or said
    done: Result = result
    return done
