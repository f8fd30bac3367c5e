"""Pictures in one folder and a line of JSON for each pair, in the words of two trainers.

`metadata.jsonl`: `prompt`, `image`, `lose_image`, paths below the output, for DiffSynth-Studio's
examples/qwen_image/model_training/train_dpo.py at bf7b339 (`--dataset_base_path OUTPUT --dataset_metadata_path
OUTPUT/metadata.jsonl --data_file_keys image,lose_image`; diffsynth/trainers/unified_dataset.py at 1b98b3b reads it).
`dpo_data.json`: `id`, `caption`, `jpg_0`, `jpg_1`, `label_0`, file names in images_dpo/, for UnifiedReward's
DiffusionDPO/train.py (`--dataset_name OUTPUT`), read in the copy Ni-Songhao/UnifiedReward at 168b6e0; `datasets` takes
lines of JSON under that name.
"""

import json
from collections.abc import Iterator
from typing import Any

from curate.export.layouts.output import Output, Sample

IMAGES = "images_dpo"


def write(samples: Iterator[Sample], output: Output) -> None:
    """The pictures, then both files."""
    with (
        output.file("metadata.jsonl") as metadata,
        output.file("dpo_data.json") as dpo_data,
        metadata.open("w", encoding="utf-8") as diffsynth,
        dpo_data.open("w", encoding="utf-8") as unified_reward,
    ):
        for sample in samples:
            chosen, rejected = image_names(sample, output.extension)
            output.write(f"{IMAGES}/{chosen}", sample.preferred)
            output.write(f"{IMAGES}/{rejected}", sample.rejected)
            paths = {"image": f"{IMAGES}/{chosen}", "lose_image": f"{IMAGES}/{rejected}"}
            diffsynth.write(json_line({"prompt": sample.prompt} | paths))
            judged = {"jpg_0": chosen, "jpg_1": rejected, "label_0": 1}
            unified_reward.write(json_line({"id": sample.key, "caption": sample.prompt} | judged))


def image_names(sample: Sample, extension: str) -> tuple[str, str]:
    """File names of the preferred and the rejected picture."""
    return f"{sample.key}_chosen.{extension}", f"{sample.key}_rejected.{extension}"


def json_line(value: dict[str, Any]) -> str:
    """ASCII alone: DiffSynth-Studio opens the file in the machine's own encoding."""
    return json.dumps(value) + "\n"
