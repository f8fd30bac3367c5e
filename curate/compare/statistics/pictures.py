"""What is compared: the scored pictures of several models, and the pairs among them."""

from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from curate.compare.statistics.bootstrap import Floats, by_prompt

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Pictures:
    """The scored pictures of `models`, and the pairs among them, by number.

    prompt, model: (pictures,) places in `prompts` and `models`. one, two: (pairs,) pictures, the earlier model's first.
    scores: scorer -> (pictures,), nan where not finite. categories: of each prompt, None where there is none.
    """

    models: list[str]
    prompts: list[str]
    categories: list[str | None]
    prompt: Ints
    model: Ints
    one: Ints
    two: Ints
    scores: dict[str, Floats]
    uids: list[str]

    @cached_property
    def couples(self) -> list[tuple[int, int]]:
        """Every two of the models."""
        return list(combinations(range(len(self.models)), 2))

    @cached_property
    def couple(self) -> Ints:
        """(pairs,): which two models drew each pair."""
        table = np.zeros((len(self.models), len(self.models)), np.int64)
        table[np.triu_indices(len(self.models), 1)] = np.arange(len(self.couples))
        return table[self.model[self.one], self.model[self.two]]

    @cached_property
    def counts(self) -> Ints:
        """(prompts, models): how many scored pictures there are."""
        ones = np.ones(len(self.prompt))
        return by_prompt(self.prompt, ones, self.model, (len(self.prompts), len(self.models))).astype(np.int64)

    @cached_property
    def shared(self) -> NDArray[np.bool_]:
        """(prompts,): whether every model has a picture; all prompts where no prompt is shared."""
        shared = np.asarray((self.counts > 0).all(axis=1))
        return shared if shared.any() else np.ones_like(shared)
