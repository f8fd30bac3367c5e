"""Prompts that are alike: near-duplicates as groups, and a choice of pairs that spreads over prompts.

Distances are cosine distances of prompt embeddings, 1 - cosine, cut to [0, 1] and rounded to four digits, so
that the last bits of a matrix product, which depend on the machine, do not decide.
"""

from collections.abc import Callable

import numpy as np

NEIGHBOURS = 5
BLOCK = 512
"""Prompts compared at once: large enough for fast matrix products, small enough to hold their distances."""
TOGETHER = 128
"""Prompts brought up to date in one product: those of like staleness share it, or work done once is done again."""
FOLD = 16
"""Cosines of which the greatest is looked at for all when the largest are sought."""
DIGITS = 4
TOLERANCE = 1e-5
"""Float32 cosines of equal embeddings come out this close to 1."""


def near_duplicate_groups(embeddings: np.ndarray, least_cosine: float) -> np.ndarray:
    """(n,) group of each of n prompts: prompts joined by a chain of cosines >= least_cosine share a group.

    embeddings: (n, dimension) float32, L2-normalised.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    count = len(embeddings)
    group = np.arange(count)
    for start in range(0, count, BLOCK):
        rows = embeddings[start : start + BLOCK]
        links = np.argwhere(rows @ embeddings[start:].T >= least_cosine - TOLERANCE) + start
        links = links[links[:, 0] < links[:, 1]]
        if len(links):  # with one link to each prompt's group so far; all links at once could be n * n
            left, right = np.append(links[:, 0], np.arange(count)), np.append(links[:, 1], group)
            graph = coo_array((np.ones(len(left), bool), (left, right)), shape=(count, count))
            component = connected_components(graph, directed=False)[1]
            group = np.unique(component, return_index=True)[1][component]
    return np.unique(group, return_inverse=True)[1]


def choose_diverse(
    prompt: np.ndarray,
    embeddings: np.ndarray,
    weight: float,
    count: int,
    accept: Callable[[int], bool],
) -> list[int]:
    """Positions of at most `count` pairs, chosen one after the other: each time the pair of greatest

        (1 - weight) * percentile of its quality + weight * novelty of its prompt,

    novelty being the mean distance to the NEIGHBOURS nearest prompts chosen so far, a prompt counted once for
    each of its chosen pairs; absent ones count as 1. Equal values go by rank. This is maximal marginal relevance
    (Carbonell and Goldstein, SIGIR 1998) with a k-nearest-neighbour distance, as FiFA (arXiv 2410.10166) takes
    for the diversity of prompts.

    prompt: (pairs,) row of each pair's prompt in `embeddings`, pairs in rank order. accept: called for a pair that
    would be chosen; False passes it over. The choice is exact: novelty only falls as pairs are chosen, so values
    not yet brought up to date are upper bounds (lazy greedy, Minoux 1978).
    """
    state = _Greedy(prompt, embeddings, weight, count)
    while len(state.chosen) < count and state.choose_from_block(count, accept):
        pass
    return state.chosen


class _Greedy:
    """value[p] is an upper bound of what prompt p's best remaining pair is worth, exact once p is up to date."""

    def __init__(self, prompt: np.ndarray, embeddings: np.ndarray, weight: float, count: int) -> None:
        prompts, pairs = len(embeddings), len(prompt)
        self.embeddings, self.weight = embeddings, weight
        self.worth = np.append((1 - weight) * (1 - np.arange(pairs) / max(pairs - 1, 1)), -np.inf)
        self.queue = np.append(np.argsort(prompt, kind="stable"), pairs)  # each prompt's pairs, best first
        ends = np.cumsum(np.bincount(prompt, minlength=prompts))
        self.next, self.end = np.append(0, ends[:-1]), ends
        self.head = np.where(self.next < self.end, self.queue[self.next], pairs)
        self.nearest = np.ones((prompts, NEIGHBOURS), np.float32)
        self.seen = np.zeros(prompts, np.int64)  # how many of the chosen `nearest` knows
        self.value = self.worth[self.head] + weight
        self.chosen: list[int] = []
        self.chosen_embeddings = np.empty((count, embeddings.shape[1]), np.float32)

    def choose_from_block(self, count: int, accept: Callable[[int], bool]) -> bool:
        """Bring the most promising prompts up to date and choose among them while none outside can be better.

        False when no pair is left.
        """
        block, outside = self._most_promising()
        self._bring_up_to_date(block)
        between = _distances(self.embeddings[block] @ self.embeddings[block].T)
        while len(self.chosen) < count:
            best = self._best(block)
            one = block[best]
            if not np.isfinite(self.value[one]):
                return outside is not None and bool(np.isfinite(self.value[outside]))
            if outside is not None and self._key(outside) < self._key(one):
                return True
            pair = int(self.head[one])
            self._advance(one)
            if accept(pair):
                self.chosen_embeddings[len(self.chosen)] = self.embeddings[one]
                self.chosen.append(pair)
                self._nearer(block, between[:, best])
            self.value[block] = self._exact(block)
        return False

    def _most_promising(self) -> tuple[np.ndarray, int | None]:
        """The BLOCK prompts of greatest value, and the best of the others."""
        if len(self.value) <= BLOCK:
            return np.arange(len(self.value)), None
        least = np.partition(self.value, -BLOCK - 1)[-BLOCK - 1]
        among = np.flatnonzero(self.value >= least)
        among = among[np.lexsort((self.head[among], -self.value[among]))]
        return among[:BLOCK], int(among[BLOCK])

    def _bring_up_to_date(self, block: np.ndarray) -> None:
        """Compare with what was chosen since; rows that missed as much go together."""
        known = len(self.chosen)
        stale = block[self.seen[block] < known]
        stale = stale[np.argsort(self.seen[stale], kind="stable")]
        for rows in np.array_split(stale, -(-len(stale) // TOGETHER)) if len(stale) else ():
            first, last = int(self.seen[rows].min()), int(self.seen[rows].max())
            cosines = self.embeddings[rows] @ self.chosen_embeddings[first:known].T
            cosines[:, : last - first][np.arange(first, last) < self.seen[rows, None]] = -1  # known already
            both = np.concatenate([self.nearest[rows], _distances(_largest(cosines))], axis=1)
            self.nearest[rows] = np.partition(both, NEIGHBOURS - 1, axis=1)[:, :NEIGHBOURS]
            self.seen[rows] = known
        self.value[block] = self._exact(block)

    def _nearer(self, block: np.ndarray, distances: np.ndarray) -> None:
        """One more prompt was chosen, at these distances from the block's."""
        farthest = self.nearest[block].argmax(axis=1)
        self.nearest[block, farthest] = np.minimum(self.nearest[block, farthest], distances)
        self.seen[block] = len(self.chosen)

    def _exact(self, block: np.ndarray) -> np.ndarray:
        novelty = np.sort(self.nearest[block], axis=1).mean(axis=1, dtype=np.float64)
        return self.worth[self.head[block]] + self.weight * novelty

    def _advance(self, one: int) -> None:
        self.next[one] += 1
        self.head[one] = self.queue[self.next[one]] if self.next[one] < self.end[one] else len(self.queue) - 1

    def _best(self, block: np.ndarray) -> int:
        values = self.value[block]
        ties = np.flatnonzero(values == values.max())
        return int(ties[self.head[block[ties]].argmin()])

    def _key(self, one: int) -> tuple[float, int]:
        return -self.value[one], self.head[one]


def _largest(cosines: np.ndarray) -> np.ndarray:
    """(n, NEIGHBOURS) largest of each row, or the row where it has no more.

    The largest of a row lie among those FOLDs whose greatest are the largest.
    """
    rows, columns = cosines.shape
    groups = columns // FOLD
    if groups > NEIGHBOURS:
        folded = cosines[:, : groups * FOLD].reshape(rows, FOLD, groups)
        best = np.argpartition(folded.max(axis=1), -NEIGHBOURS, axis=1)[:, -NEIGHBOURS:]
        found = np.take_along_axis(folded, best[:, None, :], axis=2).reshape(rows, -1)
        cosines = np.concatenate([found, cosines[:, groups * FOLD :]], axis=1)
    if cosines.shape[1] <= NEIGHBOURS:
        return cosines
    return np.partition(cosines, -NEIGHBOURS, axis=1)[:, -NEIGHBOURS:]


def _distances(cosines: np.ndarray) -> np.ndarray:
    return np.round(np.clip(1 - cosines, 0, 1), DIGITS)
