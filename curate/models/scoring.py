"""Towers and scorers loaded together: everything that turns one decoded picture into rows of scores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from curate.errors import ModelError
from curate.models.batch_limit import BatchLimit
from curate.models.heads import load_head
from curate.models.model_set import HEAD_KEYS, ModelSet, ScorerSpec
from curate.models.plugins import load_plugin
from curate.models.scorers import Matched, PixelScorer, Scorer, preprocessing_of, scores_of
from curate.models.towers import Tower, load_tower
from curate.models.weights import fetched

Pictures = dict[str, torch.Tensor]
"""Preprocessing -> n pictures, (n, 3, height, width), on any device."""
Scored = tuple[dict[str, torch.Tensor], dict[str, np.ndarray]]
"""Tower -> float32 (n, dimension) of n pictures; scorer -> float32 (m,) of m (picture, prompt) rows."""


@dataclass(frozen=True)
class EmbeddedPrompts:
    """A run's prompts: `rows` maps prompt_id to its place in `texts` and in each tower's float32 (m, dimension)."""

    rows: dict[str, int]
    texts: list[str]
    embeddings: dict[str, torch.Tensor]


@dataclass(frozen=True)
class Scoring:
    """Every tower and scorer of a run, loaded; `models` names their set.

    heads: a scorer's name -> the scorer and the tower whose embeddings it reads, None where it reads none.
    """

    towers: dict[str, Tower]
    heads: dict[str, tuple[Scorer, str | None]]
    identity: dict[str, Any]
    models: str
    limit: BatchLimit = field(default_factory=BatchLimit)
    prompt_limit: BatchLimit = field(default_factory=lambda: BatchLimit(of="prompts"))

    @property
    def names(self) -> list[str]:
        """The scorers, by name."""
        return list(self.heads)

    def on(self, device: str) -> Scoring:
        """Itself: it is loaded already."""
        return self

    @property
    def dimensions(self) -> dict[str, int]:
        """Length of each tower's embedding. Scorers without a tower bring none."""
        return {name: tower.dimension for name, tower in self.towers.items()}

    @property
    def preprocessors(self) -> dict[str, Callable[[Image.Image], torch.Tensor]]:
        """Each distinct preprocessing, of towers and of scorers that look at pixels; they pickle, without weights."""
        found: dict[str, Callable[[Image.Image], torch.Tensor]] = {}
        for tower in self.towers.values():
            found[tower.preprocessing] = tower.preprocess
        for name, (scorer, _) in self.heads.items():
            if isinstance(scorer, PixelScorer):
                found[preprocessing_of(name, scorer)] = scorer.preprocess
        return found

    def preprocess(self, image: Image.Image) -> dict[str, torch.Tensor]:
        """One tensor per distinct preprocessing, from one decoded picture."""
        return {key: preprocess(image) for key, preprocess in self.preprocessors.items()}

    def embed_images(self, pictures: Pictures) -> dict[str, torch.Tensor]:
        """Tower -> float32 (n, dimension) for n preprocessed pictures. Raises ModelError when not finite."""
        return {
            name: _finite(tower.embed_images(pictures[tower.preprocessing]), tower, "an image")
            for name, tower in self.towers.items()
        }

    def embed_prompts(self, prompts: list[str]) -> dict[str, torch.Tensor]:
        """Tower -> float32 (n, dimension) for n prompts. Raises ModelError when not finite."""
        pieces = self.prompt_limit.run(len(prompts), lambda start, stop: self._embed_prompts(prompts[start:stop]))
        return {name: torch.cat([piece[name] for piece in pieces]) for name in self.towers}

    def _embed_prompts(self, prompts: list[str]) -> dict[str, torch.Tensor]:
        return {name: _finite(tower.embed_prompts(prompts), tower, "a prompt") for name, tower in self.towers.items()}

    def score_pictures(self, pictures: Pictures, matched: list[tuple[int, str]], prompts: EmbeddedPrompts) -> Scored:
        """`score_at_once` over pieces of the pictures that memory holds, put together as if it had been called once.

        Raises ModelError as it does.
        """

        def piece(start: int, stop: int) -> tuple[list[int], Scored]:
            own = [index for index, (row, _) in enumerate(matched) if start <= row < stop]
            within = [(matched[index][0] - start, matched[index][1]) for index in own]
            return own, self.score_at_once(rows_of(pictures, start, stop), within, prompts)

        count = count_of(pictures, matched)
        if count == 0:
            return self.score_at_once(pictures, matched, prompts)
        pieces = self.limit.run(count, piece)
        if len(pieces) == 1:
            return pieces[0][1]
        order = np.argsort(np.concatenate([own for own, _ in pieces]))
        embeddings = [found for _, (found, _) in pieces]
        scores = [found for _, (_, found) in pieces]
        return (
            {tower: torch.cat([found[tower] for found in embeddings]) for tower in embeddings[0]},
            {scorer: np.concatenate([found[scorer] for found in scores])[order] for scorer in scores[0]},
        )

    def score_at_once(self, pictures: Pictures, matched: list[tuple[int, str]], prompts: EmbeddedPrompts) -> Scored:
        """All that is computed of one batch: the n pictures' embeddings, and each scorer's float32 (len(matched),).

        matched: (row of a picture, prompt_id) pairs. Raises ModelError when an embedding is not finite.
        """
        embeddings = self.embed_images(pictures)
        image_rows = torch.tensor([row for row, _ in matched], dtype=torch.long)
        prompt_rows = torch.tensor([prompts.rows[prompt_id] for _, prompt_id in matched], dtype=torch.long)
        texts = [prompts.texts[row] for row in prompt_rows.tolist()]
        scores = {}
        for name, (scorer, tower) in self.heads.items():
            of_tower = tower and (embeddings[tower][image_rows], prompts.embeddings[tower][prompt_rows])
            of_pixels = None
            if isinstance(scorer, PixelScorer):
                of_pixels = (pictures[preprocessing_of(name, scorer)], image_rows)
            scores[name] = scores_of(name, scorer, Matched(texts, of_tower or None, of_pixels)).numpy()
        return embeddings, scores


@dataclass(frozen=True)
class UnloadedScoring:
    """Names its models, and loads them where the work is done: it travels to worker processes and machines."""

    model_set: ModelSet
    specs: tuple[ScorerSpec, ...]
    precision: str

    @property
    def names(self) -> list[str]:
        """The scorers, by name."""
        return [spec.name for spec in self.specs]

    @property
    def models(self) -> str:
        """The name of their set."""
        return self.model_set.location

    def fetched(self) -> UnloadedScoring:
        """With all weights on this machine, checked, for the processes that will load them. Raises ManifestError."""
        model_set = fetched(self.model_set, list(self.specs))
        return replace(self, model_set=model_set, specs=tuple(model_set.scorers[name] for name in self.names))

    def on(self, device: str) -> Scoring:
        """Load every tower and head on `device`. Raises ModelError."""
        return load_scoring(self.model_set, list(self.specs), device, self.precision)


Scorers = Scoring | UnloadedScoring
"""What is to score, loaded or not; `on` gives it loaded on a device."""


def stacked(pictures: list[dict[str, torch.Tensor]]) -> Pictures:
    """Pictures that were preprocessed one by one."""
    return {key: torch.stack([item[key] for item in pictures]) for key in pictures[0]}


def load_scoring(model_set: ModelSet, scorers: list[ScorerSpec], device: str, precision: str) -> Scoring:
    """Load what the scorers need, each tower once, when all of it is there. Raises ModelError, ManifestError."""
    model_set = fetched(model_set, scorers)
    scorers = [model_set.scorers[spec.name] for spec in scorers]
    towers = {spec.name: load_tower(spec, model_set.folder, device, precision) for spec in model_set.towers_of(scorers)}
    heads: dict[str, tuple[Scorer, str | None]] = {}
    identity: dict[str, Any] = {
        "towers": {name: tower.identity for name, tower in towers.items()},
        "scorers": {},
    }
    for spec in scorers:
        scorer, stated = _load_scorer(spec, towers, model_set.folder, device, precision)
        heads[spec.name] = (scorer, spec.tower)
        identity["scorers"][spec.name] = ({"tower": spec.tower} if spec.tower else {}) | stated
    return Scoring(towers, heads, identity, model_set.location)


def _load_scorer(
    spec: ScorerSpec, towers: dict[str, Tower], folder: Path, device: str, precision: str
) -> tuple[Scorer, dict[str, Any]]:
    """One scorer, and what run.toml says of it beside its tower. Raises ModelError, ManifestError."""
    if spec.head not in HEAD_KEYS:
        return load_plugin(spec.name, spec.head, spec.options, device, folder)
    if spec.head == "image_reward":
        from curate.models.image_reward import load_image_reward

        reward = load_image_reward(spec, folder, device, precision)
        return reward, {"head": spec.head} | reward.identity
    head, sha256 = load_head(spec, towers, folder)
    return head, {"head": spec.head} | ({"sha256": sha256} if sha256 else {})


def embedding_array(values: torch.Tensor, value_type: pa.DataType) -> pa.Array:
    """(n, dimension) as a fixed-size list column."""
    flat = values.numpy().astype(f"f{value_type.bit_width // 8}").reshape(-1)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat, value_type), values.shape[1])


def embedding_matrix(column: pa.ChunkedArray, dimension: int) -> torch.Tensor:
    """The inverse of `embedding_array`, in float32."""
    flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return torch.from_numpy(np.array(flat, dtype=np.float32)).reshape(-1, dimension)


def _finite(embeddings: torch.Tensor, tower: Tower, of: str) -> torch.Tensor:
    if not bool(torch.isfinite(embeddings).all()):
        raise ModelError(f"tower '{tower.name}' gave a number that is not finite for {of}; try --precision fp32")
    return embeddings


def count_of(pictures: Pictures, matched: list[tuple[int, str]]) -> int:
    """How many pictures; where no tower looks at them, those that have a prompt."""
    if not pictures:
        return 1 + max((row for row, _ in matched), default=-1)
    return len(next(iter(pictures.values())))


def rows_of(pictures: Pictures, start: int, stop: int) -> Pictures:
    """Some of the pictures."""
    return {key: values[start:stop] for key, values in pictures.items()}
