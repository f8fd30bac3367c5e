"""Parquet with the images inside, as `datasets.load_dataset` reads it.

`parquet`: Pick-a-Pic's columns, the preferred image as `jpg_0` with `label_0` 1. Read so by diffusers'
examples/research_projects/diffusion_dpo/train_diffusion_dpo.py at 071190d and Salesforce's DiffusionDPO train.py at
8d3ee5c, which takes the second column for the caption unless told otherwise. `curate embed --manifest
pickapic_v2` reads it, too. `chosen-rejected`: `prompt`, and two columns of the type `Image` of `datasets`.
"""

import json
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from curate.export.layouts.output import Output, Sample
from curate.storage.threads import in_threads

PAIRS_PER_FILE = 1000
PAIRS_PER_ROW_GROUP = 100
ROW_GROUP_BYTES = 8_000_000  # with 64 MB the kernel takes twice the time to find room
TEXTS = ("caption", "prompt")

PICK_A_PIC = pa.schema(
    [
        *(("jpg_0", pa.binary()), ("caption", pa.string()), ("jpg_1", pa.binary())),
        *(("label_0", pa.float64()), ("label_1", pa.float64()), ("has_label", pa.bool_())),
        *(("image_0_uid", pa.string()), ("image_1_uid", pa.string()), ("best_image_uid", pa.string())),
        *(("model_0", pa.string()), ("model_1", pa.string()), ("user_id", pa.string())),
        *(("ranking_id", pa.int64()), ("quality", pa.float64())),
    ]
)
_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_FEATURES = {
    "prompt": {"dtype": "string", "_type": "Value"},
    **{name: {"_type": "Image"} for name in ("chosen", "rejected")},
}
CHOSEN_REJECTED = pa.schema(
    [("prompt", pa.string()), ("chosen", _IMAGE), ("rejected", _IMAGE)],
    metadata={"huggingface": json.dumps({"info": {"features": _FEATURES}})},
)


def write_pickapic(samples: Iterator[Sample], output: Output) -> None:
    """data/train-*.parquet in Pick-a-Pic's columns; `ranking_id` is the rank."""
    _write(samples, output, PICK_A_PIC, _pickapic_row)


def write_chosen_rejected(samples: Iterator[Sample], output: Output) -> None:
    """data/train-*.parquet with `prompt`, `chosen` and `rejected`."""
    _write(samples, output, CHOSEN_REJECTED, lambda sample: _chosen_rejected_row(sample, output.extension))


def _pickapic_row(sample: Sample) -> dict[str, Any]:
    uids = {f"image_{side}_uid": sample.meta[name]["image_uid"] for side, name in enumerate(("preferred", "rejected"))}
    return {
        **{"jpg_0": sample.preferred, "caption": sample.prompt, "jpg_1": sample.rejected},
        **{"label_0": 1.0, "label_1": 0.0, "has_label": True, **uids, "best_image_uid": uids["image_0_uid"]},
        **{"model_0": sample.models[0], "model_1": sample.models[1]},
        **{"user_id": sample.meta["source"]["annotator_id"], "ranking_id": sample.meta["rank"]},
        "quality": sample.meta["quality"],
    }


def _chosen_rejected_row(sample: Sample, extension: str) -> dict[str, Any]:
    images = {"chosen": sample.preferred, "rejected": sample.rejected}
    return {"prompt": sample.prompt} | {
        name: {"bytes": image, "path": f"{sample.key}_{name}.{extension}"} for name, image in images.items()
    }


def _write(
    samples: Iterator[Sample], output: Output, schema: pa.Schema, row_of: Callable[[Sample], dict[str, Any]]
) -> None:
    """Files of so many pairs each, a thread a file, numbered as the hub numbers them; one where there are no pairs."""
    texts = [name for name in schema.names if name in TEXTS]
    files = max(1, -(-output.pairs // PAIRS_PER_FILE))

    def write(numbered: tuple[int, list[Sample]]) -> None:
        number, own = numbered
        with (
            output.file(f"data/train-{number:05d}-of-{files:05d}.parquet") as path,
            # Encoded images: nothing to compress, no two alike, and no least or greatest that anyone asks for.
            pq.ParquetWriter(path, schema, compression="none", use_dictionary=texts, write_statistics=texts) as writer,
        ):
            for together in _row_groups(own):
                writer.write_table(pa.Table.from_pylist([row_of(sample) for sample in together], schema=schema))

    batches = (
        list(islice(samples, PAIRS_PER_FILE)) for _ in range(files)
    )  # without images, which are read when asked for
    for _ in in_threads(write, enumerate(batches), output.workers):
        pass


def _row_groups(samples: list[Sample]) -> Iterator[list[Sample]]:
    """Some at a time: of large images fewer."""
    together: list[Sample] = []
    held_bytes = 0
    for sample in samples:
        together.append(sample)
        held_bytes += sum(image.facts.size_bytes for image in sample.images)
        if len(together) == PAIRS_PER_ROW_GROUP or held_bytes >= ROW_GROUP_BYTES:
            yield together
            together, held_bytes = [], 0
    if together:
        yield together
