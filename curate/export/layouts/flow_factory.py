"""Flow-Factory's offline records, version 2, with a preference each: `trainer_type: offline-dpo`.

Source: guidance/datasets.md and src/flow_factory/data_utils/offline_dataset.py of X-GenGroup/Flow-Factory at 442134e,
and the strict schema beside the latter, which refuses unknown keys and numbers that are not finite.
"""

from collections.abc import Iterator
from typing import Any

from curate.export.layouts.jsonl import image_names, json_line
from curate.export.layouts.output import Output, Sample

IMAGES = "pairs"


def write(samples: Iterator[Sample], output: Output) -> None:
    """The pictures, then train.jsonl: the output is Flow-Factory's `dataset_dir`."""
    with output.file("train.jsonl") as path, path.open("w", encoding="utf-8") as lines:
        for sample in samples:
            names = image_names(sample, output.extension)
            for name, image in zip(names, (sample.preferred, sample.rejected), strict=True):
                output.write(f"{IMAGES}/{name}", image)
            lines.write(json_line(_record(sample, *names)))


def _record(sample: Sample, chosen: str, rejected: str) -> dict[str, Any]:
    sides = {
        side: {"media": [{"type": "image", "path": f"{IMAGES}/{name}"}]}
        for side, name in (("chosen", chosen), ("rejected", rejected))
    }
    return {
        "schema_version": 2,
        "input": {"prompt": sample.prompt, "media": []},
        "supervision": {"type": "preference", **sides},
        "metadata": {key: sample.meta[key] for key in ("pair_id", "rank", "quality")},
    }
