"""Two folders of pictures with equal names, each with its caption beside it: SimpleTuner, kohya, OneTrainer.

SimpleTuner pairs a `reference_strict` data set with the preferred one by file name, and each line of a `.txt` is a
caption (documentation/experimental/FLOW_DPO.md at 1b1d39b, documentation/DATALOADER.md at 04265fc). kohya's
pull request 1427 and OneTrainer's 1403 read such folders, too; neither was merged. `curate embed --manifest folders`
reads them.
"""

import json
from collections.abc import Iterator

from curate.export.layouts.output import Output, Sample

WIN, LOSE = "win", "lose"
CONFIG = "dataset_config.json"


def write(samples: Iterator[Sample], output: Output) -> None:
    """win/ and lose/, then SimpleTuner's `--data_backend_config`."""
    for sample in samples:
        for folder, image in ((WIN, sample.preferred), (LOSE, sample.rejected)):
            output.write(f"{folder}/{sample.key}.{output.extension}", image)
            output.write(f"{folder}/{sample.key}.txt", sample.caption.encode("utf-8"))
    output.write(CONFIG, (json.dumps(simpletuner_config(output.location), indent=2) + "\n").encode("utf-8"))


def simpletuner_config(location: str) -> list[dict[str, object]]:
    """The preferred pictures, the rejected ones as their strict reference, and a cache of text embeddings."""
    local = {"type": "local", "caption_strategy": "textfile"}
    return [
        {
            **{"id": "preferred", "dataset_type": "image", "instance_data_dir": f"{location}/{WIN}"},
            **{"conditioning_data": ["rejected"], "cache_dir_vae": f"{location}/cache/vae/preferred"},
            **local,
        },
        {
            **{"id": "rejected", "dataset_type": "conditioning", "conditioning_type": "reference_strict"},
            **{"source_dataset_id": "preferred", "instance_data_dir": f"{location}/{LOSE}"},
            **{"cache_dir_vae": f"{location}/cache/vae/rejected"},
            **local,
        },
        {
            **{"id": "text", "dataset_type": "text_embeds", "default": True, "type": "local"},
            **{"cache_dir": f"{location}/cache/text"},
        },
    ]
