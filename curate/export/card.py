"""The data set card beside the shards: README.md with the YAML header that the Hugging Face hub and `datasets` read."""

import hashlib
import json
from pathlib import Path
from typing import Any

import jinja2

from curate.export.destination import Destination
from curate.export.order import in_split
from curate.export.samples import SIDES
from curate.sources.manifest import BUNDLED, read_toml
from curate.terminal.progress import say
from schemas import shards

MARK = "<!-- written by curate export-shards -->"
UNKNOWN_LICENSE = "unknown"
PARQUET = dict.fromkeys(("parquet", "chosen-rejected"), "data/train-*.parquet")  # what `datasets` loads of a layout
# https://huggingface.co/docs/hub/repositories-licenses: the identifiers that a manifest is likely to name.
LICENSES = (
    *("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0"),
    *("cc-by-nc-sa-4.0", "cc-by-3.0", "cc-by-sa-3.0", "odc-by", "odbl", "pddl", "cdla-permissive-2.0", "openrail"),
    *("openrail++", "creativeml-openrail-m", "gpl-3.0", "agpl-3.0", "unlicense"),
)
# https://huggingface.co/docs/hub/datasets-cards: the buckets of `size_categories`, by their upper ends.
SIZES = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M", 10_000_000: "1M<n<10M"}


def write_card(
    destination: Destination,
    settings: dict[str, Any],
    ranking: dict[str, Any],
    indices: dict[str, dict[str, Any]],
    votes: bool,
) -> None:
    """Write README.md beside the files of each split; one that is not ours stays as it is, and that is said."""
    # A split's folder is opened by itself, too: without a card `datasets` may take its shards.json for the data.
    folders = {"": indices} | {split: {"": index} for split, index in indices.items() if split}
    for folder, held in folders.items():
        name = in_split(folder, shards.CARD)
        there = destination.read_text(name)
        if there is not None and MARK not in there:
            say(f"{destination.output}/{name} is not ours and stays as it is; no card is written")
        else:
            destination.write_text(name, card_text(settings, ranking, held, votes))


def card_text(
    settings: dict[str, Any], ranking: dict[str, Any], indices: dict[str, dict[str, Any]], votes: bool = False
) -> str:
    """The card. settings: run.toml; ranking: its toml; indices: shards.json of each split, "" where there are none.

    votes: whether the source counts them, so that pairs have a strength.
    """
    about, stated = data_set_facts(settings), settings["settings"]
    pairs = sum(index["pairs"] for index in indices.values())
    layout = next(iter(indices.values())).get("layout")  # None: shards
    pattern = "*.tar" if layout is None else PARQUET.get(layout)
    files = [
        {"split": split or "train", "path": in_split(split, pattern)}
        for split, index in indices.items()
        if pattern and index["pairs"]
    ]
    header: dict[str, Any] = {
        **_license(about["license"]),
        "task_categories": ["text-to-image"],
        "size_categories": [size_category(pairs)],
        "pretty_name": f"{stated['manifest']['name']}, {pairs:,} preference pairs chosen by {ranking['metric']}",
        "tags": ["preference", "diffusion-dpo", *(["webdataset"] if layout is None else [])],
    }
    if files:  # `datasets` tells exports in its cache by the description
        header["configs"] = [{"config_name": "default", "data_files": files, "description": _digest(indices)}]
    if layout is None:  # it guesses types from the first samples, nulls and all
        types = features(next(iter(indices.values())), list(stated["models"]["scorers"]), votes)
        header["dataset_info"] = {"features": types}
    return jinja2.Template(
        Path(__file__).with_suffix(".md").read_text("utf-8"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    ).render(
        header={key: json.dumps(value, ensure_ascii=False) for key, value in header.items()},
        mark=MARK,
        layout=layout,
        pairs=pairs,
        encoded=next(iter(indices.values()))["encoded"],
        about=about,
        stated=stated,
        ranking=ranking,
        psi=" + ".join(f"{weight:g} {scorer}" for scorer, weight in ranking["psi"].items()),
        indices=indices,
    )


def features(index: dict[str, Any], scorers: list[str], votes: bool) -> list[dict[str, Any]]:
    """What a sample holds, as the `features` of a data set card say it. votes: whether pairs have a strength."""
    side: dict[str, Any] = {
        "image_uid": "string",
        "sha256": "string",
        "format": "string",
        "width": "int64",
        "height": "int64",
    }
    side |= {"source_sha256": "string"} if index["encoded"] else {}
    source = {"dataset": "string", "split": "string", "file": "string", "row_group": "int64", "row": "int64"}
    meta: dict[str, Any] = {"pair_id": "string", "prompt_id": "string", "quality": "float64", "rank": "int64"}
    meta |= {"strength": "float64"} if votes else {}
    meta |= {"scores": {scorer: dict.fromkeys(SIDES, "float64") for scorer in scorers}, **dict.fromkeys(SIDES, side)}
    meta |= {"source": source | {"annotator_id": "string"}}
    images = {f"{name}.{index['extension']}": "image" for name in SIDES}
    return _features({"__key__": "string", "__url__": "string", shards.META: meta, **images, shards.PROMPT: "string"})


def _features(types: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"name": name, **({"struct": _features(of)} if isinstance(of, dict) else {"dtype": of})}
        for name, of in types.items()
    ]


def _digest(indices: dict[str, dict[str, Any]]) -> str:
    """Tells these files from those of any other export."""
    hashes = "".join(entry["sha256"] for index in indices.values() for entry in index.get("shards", []))
    hashes += next(iter(indices.values())).get("content_sha256", "")
    return f"shards {hashlib.sha256(hashes.encode()).hexdigest()[:16]}"


def size_category(count: int) -> str:
    """The hub's word for so many samples."""
    return next((word for bound, word in SIZES.items() if count < bound), "n>10M")


def data_set_facts(settings: dict[str, Any]) -> dict[str, str]:
    """Description, homepage and license of the source: of run.toml, else of the bundled manifest of that name."""
    stated = settings.get("info", {}).get("data_set")
    bundled = BUNDLED / f"{settings['settings']['manifest']['name']}.toml"
    found = stated or (read_toml(bundled) if bundled.is_file() else {})
    return {key: str(found.get(key) or "").strip() for key in ("description", "homepage", "license")}


def _license(text: str) -> dict[str, str]:
    """An identifier of the hub as it is; `other` with the text for any other text."""
    word = text.casefold()
    if word in LICENSES or not word:
        return {"license": word or UNKNOWN_LICENSE}
    return {"license": "other", "license_name": text}
