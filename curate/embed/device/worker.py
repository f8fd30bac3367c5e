"""What one worker of `curate embed` does, wherever an engine runs it: load, agree on the settings, prompts, parts."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

import pyarrow as pa
import torch

from curate.embed.device.pipeline import compute_parts
from curate.embed.device.reports import PromptsDone
from curate.embed.options import ComputeOptions
from curate.embed.planning.plan import Part, release_freed_memory
from curate.errors import DeviceError
from curate.models.batch_limit import device_failed, first_sentence, out_of_memory
from curate.models.scoring import EmbeddedPrompts, Scorers, Scoring, embedding_array, embedding_matrix
from curate.sources.parquet import Source
from curate.storage.run import RunFiles, part_rows, sound_parts, write_part
from schemas import tables

PROMPTS_PER_PART = 4096
PROMPTS_PER_BATCH = 256
PACKAGES = ("torch", "open_clip_torch", "transformers", "pillow", "pyarrow")


@dataclass(frozen=True)
class EmbedWork:
    """One worker's share of a run; every worker makes sure of all prompts, and takes image parts as they come.

    settings: what is known before weights are loaded; anew: whether image parts are to be computed at all.
    """

    run: RunFiles
    source: Source
    scorers: Scorers
    prompts: dict[str, str]
    options: ComputeOptions
    settings: dict[str, Any]
    anew: bool

    def __call__(self, device: str, tasks: Iterator[Part], report: Callable[[Any], None]) -> None:
        """Raises: RunError when the run was made under other settings; the others of curate/errors.py."""
        try:
            torch.zeros(1, device=device).cpu()  # a device that is gone is not taken for weights that cannot be loaded
            self._compute(device, tasks, report)
        except RuntimeError as error:
            if not (device_failed(error) or out_of_memory(error)):
                raise
            raise DeviceError(
                f"{device} failed ({first_sentence(error)}); the parts that are written stand: run again to go on, by "
                "another --device where this one is gone"
            ) from error

    def _compute(self, device: str, tasks: Iterator[Part], report: Callable[[Any], None]) -> None:
        scoring = self.scorers.on(device)
        info = {
            "data_set": self.source.manifest.about(),
            "models": scoring.models,
            "packages": {name: version(name) for name in PACKAGES},
        }
        # Equal settings give equal tables: this is everything that decides a table's content.
        self.run.claim(self.settings | {"models": scoring.identity}, info)
        prompts = self._prompts(scoring, report)
        if not self.anew:
            return
        self.run.mark_unfinished()
        missing = (task for task in tasks if not self.is_done(task))  # a process beside this one may have been faster
        options = replace(self.options, device=device)
        compute_parts(self.run, self.source, scoring, prompts, missing, options, report)

    def is_done(self, task: Part) -> bool:
        """Whether a part's files are there as its marker says."""
        return part_rows(self.run, task.name, hashed=False) is not None

    def _prompts(self, scoring: Scoring, report: Callable[[Any], None]) -> EmbeddedPrompts:
        """Missing parts are computed, beginning at another one in each process, then all are read back."""
        chunks = prompt_parts(self.prompts)
        start = os.getpid() % len(chunks)
        for name, chunk in chunks[start:] + chunks[:start]:
            if not sound_parts(self.run, [name]):
                table = _prompt_table(chunk, scoring)
                with self.run.alone():
                    # The first to write stays: others may have read it already.
                    if part_rows(self.run, name) is None:
                        schema = tables.with_embeddings(tables.PROMPTS, scoring.dimensions, pa.float32())
                        write_part(self.run, name, {"prompts": (table, schema)})
            report(PromptsDone(name, len(chunk)))
        return _embedded(self.run, [name for name, _ in chunks], len(self.prompts), scoring)


def prompt_parts(prompts: dict[str, str]) -> list[tuple[str, list[tuple[str, str]]]]:
    """The name of each part of the prompts, and its (prompt_id, prompt)."""
    items = list(prompts.items())
    starts = range(0, len(items), PROMPTS_PER_PART)
    return [(f"prompts-{i:05d}", items[start : start + PROMPTS_PER_PART]) for i, start in enumerate(starts)]


def _prompt_table(chunk: list[tuple[str, str]], scoring: Scoring) -> pa.Table:
    embeddings: dict[str, list[torch.Tensor]] = {tower: [] for tower in scoring.towers}
    for start in range(0, len(chunk), PROMPTS_PER_BATCH):
        for tower, values in scoring.embed_prompts([p for _, p in chunk[start : start + PROMPTS_PER_BATCH]]).items():
            embeddings[tower].append(values)
    columns: dict[str, Any] = {"prompt_id": [key for key, _ in chunk], "prompt": [prompt for _, prompt in chunk]}
    for tower, pieces in embeddings.items():
        columns[tables.embedding_column(tower)] = embedding_array(torch.cat(pieces), pa.float32())
    return pa.table(columns)


def _embedded(run: RunFiles, names: list[str], count: int, scoring: Scoring) -> EmbeddedPrompts:
    """Read part by part into their places, so that no embedding is held twice."""
    embeddings = {tower: torch.empty(count, dimension) for tower, dimension in scoring.dimensions.items()}
    rows: dict[str, int] = {}
    texts: list[str] = []
    for name in names:
        table, start = run.folder.read_table(f"prompts/{name}.parquet"), len(texts)
        texts += table["prompt"].to_pylist()
        rows |= {prompt_id: row for row, prompt_id in enumerate(table["prompt_id"].to_pylist(), start)}
        for tower, matrix in embeddings.items():
            column = table[tables.embedding_column(tower)]
            matrix[start : len(texts)] = embedding_matrix(column, matrix.shape[1])
    release_freed_memory()
    return EmbeddedPrompts(rows, texts, embeddings)
