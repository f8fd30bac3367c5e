"""One device's work: parts of the plan in, tables of the run out, with the towers as the limit.

    reader thread        row groups of the source, ahead, across parts
    decode pool          bytes -> pixels: threads, or processes that may die
    transfer thread      waits for the pool in order; on CUDA, pinned memory -> device on a stream of its own
    the caller's thread  towers and heads, and nothing else
    writer thread        a finished part's tables, while the next part is computed

A batch is cut from one part and never depends on timing, so equal input gives equal tables on the CPU.

Memory beside the models is bounded, whatever the size of the source and its parts:

    encoded   (groups_ahead + 2) × 128 MB (reading.READ_BYTES), or row groups where they are smaller, as far as the part
              needs them, and (batches_ahead + 4) batches; beside them the row group being read, of a source at a URL
              and up to 512 MB (parquet.WHOLE_GROUP_BYTES)
    pixels    (batches_ahead + 4) batches × images of a batch × Σ preprocessings 3 × height × width × 4 bytes
    decoded   one picture for each thread or process that decodes
    results   2 parts × images of a part × Σ towers dimension × 4 bytes

groups_ahead is an option of ComputeOptions, 2; batches_ahead is what pool.batches_ahead says. Pick-a-Pic, in row
groups of 1,000 pairs at 2 × 168 kB, batches of 64, 16 workers and two preprocessings at 224²: at most 0.5 GB + 86 MB
encoded, 0.6 GB of pixels.
"""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace

import torch

from curate.embed.decode.decoders import choose_decoder
from curate.embed.decode.pool import DecodePool, Prepared, decode_pool
from curate.embed.decode.preprocess import DecodedFacts
from curate.embed.decode.reading import cut_batches, read_groups
from curate.embed.decode.steps import ForPillow
from curate.embed.decode.taken_apart import needed_side_px, taken_apart
from curate.embed.device.batch_size import make_ready
from curate.embed.device.part_tables import PartResults, part_files
from curate.embed.device.reports import SAMPLE, DeviceReport, DroppedImage
from curate.embed.options import ComputeOptions
from curate.embed.planning.plan import Part
from curate.models.batch_limit import free_memory, out_of_memory
from curate.models.scoring import EmbeddedPrompts, Scoring
from curate.sources.parquet import Source
from curate.storage.prefetch import prefetched, written_behind
from curate.storage.run import RunFiles, part_rows, write_part


def compute_parts(
    run: RunFiles,
    source: Source,
    scoring: Scoring,
    prompts: EmbeddedPrompts,
    parts: Iterable[Part],
    options: ComputeOptions,
    report: Callable[[DeviceReport], None],
) -> None:
    """Compute and write each part as `parts` yields it; a part stands whole or not at all.

    `parts` is drawn from another thread, ahead of the towers by as many parts as `groups_ahead` row groups fill.
    `report` is called from this thread, after each batch and each written part; what it raises ends the work.

    Raises: SourceError, ModelError, WriteError.
    """
    batch_images = make_ready(scoring, options.device, options.batch_images, options.compiled)
    chosen = open_decode_pool(options, scoring, batch_images, pinned=options.device.startswith("cuda"))
    reporter = _Reporter(options.device, scoring, report)

    def write(results: PartResults) -> None:
        files = part_files(results, scoring)
        with run.alone():
            if part_rows(run, results.part.name, hashed=False) is None:  # or a process beside this one was faster
                write_part(run, results.part.name, files)
        reporter.written.append(results.part.name)

    with (
        chosen as decoding,
        prefetched(read_groups(source, parts), options.groups_ahead) as groups,
        prefetched(_on_device(decoding.batches(cut_batches(groups, batch_images)), options.device), 1) as batches,
        written_behind(write) as put,
    ):
        results: PartResults | None = None
        for batch in batches:
            results = results or PartResults(batch.part)
            _add_batch(results, batch, scoring, prompts, reporter)
            if batch.last:
                put(results)
                results = None
            reporter.send()
    reporter.send()


def open_decode_pool(
    options: ComputeOptions, scoring: Scoring, batch_images: int, pinned: bool = False
) -> AbstractContextManager[DecodePool]:
    """The decoder that `--decode` names, for the preprocessings of a run. Raises: UsageError."""
    whole = scoring.preprocessors
    decode = choose_decoder(options.decode, options.device, max(map(needed_side_px, whole.values()), default=1))
    unknown = ForPillow if options.decode == "nvjpeg" else lambda preprocess: preprocess
    preprocessors = {key: taken_apart(one) or unknown(one) for key, one in whole.items()}
    return decode_pool(decode, preprocessors, batch_images, options.decode_threads, options.decode_processes, pinned)


def _add_batch(
    results: PartResults, batch: Prepared, scoring: Scoring, prompts: EmbeddedPrompts, reporter: "_Reporter"
) -> None:
    """The towers' work on one batch."""
    start = time.perf_counter()
    kept, dropped = [], []
    for (uid, location), result in zip(batch.places, batch.results, strict=True):
        if isinstance(result, DecodedFacts):
            kept.append((uid, location, result))
        else:
            dropped.append(DroppedImage(uid, *location, result.reason, result.detail))
    if kept:
        matched = [(row, prompt_id) for row, (uid, *_) in enumerate(kept) for prompt_id in batch.part.prompt_ids[uid]]
        embeddings, scores = scoring.score_pictures(batch.pixels, matched, prompts)
        results.images += kept
        results.matched += [(prompt_id, kept[row][0]) for row, prompt_id in matched]
        results.embeddings.append(embeddings)
        results.scores.append(scores)
    results.dropped += dropped
    reporter.images, reporter.dropped = len(batch.places), dropped
    reporter.busy_sec += time.perf_counter() - start


def _on_device(batches: Iterable[Prepared], device: str) -> Iterator[Prepared]:
    """On CUDA each batch's pixels are copied on a stream of their own while the towers compute the one before.

    The copy is over before the batch is handed on, so that the towers' stream need not wait for an event.
    """
    if not device.startswith("cuda"):
        yield from batches
        return
    stream = torch.cuda.Stream(device)
    for batch in batches:
        try:
            with torch.cuda.stream(stream):
                pixels = {key: values.to(device, non_blocking=True) for key, values in batch.pixels.items()}
            stream.synchronize()
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            free_memory()  # the towers take it from the host, in pieces that fit
            yield batch
            continue
        for values in pixels.values():
            values.record_stream(torch.cuda.default_stream(device))
        yield replace(batch, pixels=pixels)
        del batch, pixels


class _Reporter:
    """Puts together what one device did since the last report."""

    def __init__(self, device: str, scoring: Scoring, report: Callable[[DeviceReport], None]) -> None:
        self.device, self.scoring, self.report = device, scoring, report
        self.written: deque[str] = deque()  # filled by the writer
        self.images, self.dropped, self.busy_sec = 0, list[DroppedImage](), 0.0
        self.since = time.perf_counter()

    def send(self) -> None:
        now = time.perf_counter()
        parts = len(self.written)
        for _ in range(parts):
            self.written.popleft()
        done = DeviceReport(
            self.device,
            self.images,
            dict(Counter(one.reason for one in self.dropped)),
            tuple(self.dropped[:SAMPLE]),
            parts,
            self.busy_sec,
            now - self.since,
            self.scoring.limit.size,
        )
        self.images, self.dropped, self.busy_sec, self.since = 0, [], 0.0, now
        self.report(done)
