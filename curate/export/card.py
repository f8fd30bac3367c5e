"""The data set card beside the shards: README.md with the YAML header that the Hugging Face hub and `datasets` read."""

import json
from pathlib import Path
from typing import Any

from curate.export.destination import Destination
from curate.sources.manifest import BUNDLED, read_toml
from curate.terminal.progress import say
from schemas import shards

MARK = "<!-- written by curate export-shards -->"
UNKNOWN_LICENSE = "unknown"
# https://huggingface.co/docs/hub/repositories-licenses: the identifiers that a manifest is likely to name.
LICENSES = (
    *("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0"),
    *("cc-by-nc-sa-4.0", "cc-by-3.0", "cc-by-sa-3.0", "odc-by", "odbl", "pddl", "cdla-permissive-2.0", "openrail"),
    *("openrail++", "creativeml-openrail-m", "gpl-3.0", "agpl-3.0", "unlicense"),
)
# https://huggingface.co/docs/hub/datasets-cards: the buckets of `size_categories`, by their upper ends.
SIZES = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M", 10_000_000: "1M<n<10M"}


def write_card(
    destination: Destination, settings: dict[str, Any], ranking: dict[str, Any], indices: dict[str, dict[str, Any]]
) -> None:
    """Write README.md beside the shards; one that is not ours stays as it is, and that is said."""
    there = destination.read_text(shards.CARD)
    if there is not None and MARK not in there:
        say(f"{destination.output}/{shards.CARD} is not ours and stays as it is; no card is written")
        return
    destination.write_text(shards.CARD, card_text(settings, ranking, indices))


def card_text(settings: dict[str, Any], ranking: dict[str, Any], indices: dict[str, dict[str, Any]]) -> str:
    """The card. settings: run.toml; ranking: its toml; indices: shards.json of each split, "" where there are none."""
    about, name = data_set_facts(settings), settings["settings"]["manifest"]["name"]
    pairs = sum(index["pairs"] for index in indices.values())
    header = {
        **_license(about["license"]),
        "task_categories": ["text-to-image"],
        "size_categories": [size_category(pairs)],
        "pretty_name": f"{name}, {pairs:,} preference pairs chosen by {ranking['metric']}",
        "tags": ["preference", "diffusion-dpo", "webdataset"],
        "configs": [
            {
                "config_name": "default",
                "data_files": [_data_files(split) for split in indices if indices[split]["pairs"]],
            }
        ],
    }
    sections = [
        "---\n"
        + "\n".join(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in header.items())
        + "\n---",
        MARK,
        f"# {name}: {pairs:,} preference pairs",
        _what(next(iter(indices.values()))),
        "## Where they come from\n\n" + _table(_provenance(about, settings)),
        "## How they were chosen\n\n" + _table(_choice(ranking)) + "\n\n" + _indented(ranking.get("metric_sql", "")),
        "## What is here\n\n" + _counts(indices),
    ]
    return "\n\n".join(sections) + "\n"


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
    """An identifier of the hub as it is; the first word of a longer text when it is one; `other` with the text else."""
    known = {one: one for one in LICENSES}
    words = text.casefold().split()
    if not words:
        return {"license": UNKNOWN_LICENSE}
    if len(words) == 1 and words[0] in known:
        return {"license": words[0]}
    return {"license": "other", "license_name": text}


def _data_files(split: str) -> dict[str, str]:
    return {"split": split or "train", "path": f"{split}/*.tar" if split else "*.tar"}


def _what(index: dict[str, Any]) -> str:
    images = "the source's own bytes"
    if index["encoded"]:
        images = "; ".join(f"{key} {value}" for key, value in index["encoded"].items() if value is not None)
        images = f"encoded anew ({images})"
    return (
        "Each sample is one pair of images of one prompt that a person judged: `preferred` and `rejected` "
        f"({images}), `txt` the prompt, `json` the scores, the quality, the rank, and where the pair comes from. "
        "The tars are WebDataset; their sha256 stand below, those of the images in each sample's `json`."
    )


def _provenance(about: dict[str, str], settings: dict[str, Any]) -> dict[str, str]:
    stated = settings["settings"]
    files = stated["files"]
    return {
        "data set": stated["manifest"]["name"],
        "split": stated["split"],
        "homepage": about["homepage"] or "not stated",
        "licence of the source": about["license"] or "not stated",
        "description": about["description"] or "not stated",
        "files": f"{len(files):,}, the first {Path(next(iter(files))).name}",
        "scored by": ", ".join(stated["models"]["scorers"]),
    }


def _choice(ranking: dict[str, Any]) -> dict[str, str]:
    psi = " + ".join(f"{weight:g} {scorer}" for scorer, weight in ranking["psi"].items())
    rows = {
        "metric": ranking["metric"] + (", worst first" if ranking.get("reverse") else ""),
        "psi": f"{psi} ({ranking['psi_norm']})",
        "selected": f"{ranking['selected_pairs']:,} of {ranking['base_pairs']:,} ranked pairs (--top {ranking['top']})",
    }
    for key in ("params", "filters", "limits", "dropped_pairs", "passed_over"):
        if stated := ranking.get(key):
            rows[key.replace("_", " ")] = ", ".join(f"{name} {value}" for name, value in stated.items())
    return rows


def _counts(indices: dict[str, dict[str, Any]]) -> str:
    head = "| file | pairs | bytes | sha256 |\n|---|---:|---:|---|"
    lines, sums = [], []
    for split, index in indices.items():
        of_split = f"`{split}`: " if split else ""
        sums.append(f"{of_split}{index['pairs']:,} pairs over {index['prompts']:,} prompts")
        for entry in index["shards"]:
            file = f"{split}/{entry['file']}" if split else entry["file"]
            lines.append(f"| {file} | {entry['samples']:,} | {entry['bytes']:,} | `{entry['sha256']}` |")
    no_prompt = " No prompt is in two of them." if len(indices) > 1 else ""
    return "; ".join(sums) + f".{no_prompt}\n\n" + "\n".join([head, *lines])


def _table(rows: dict[str, str]) -> str:
    cells = (f"| {key} | {' '.join(str(value).split()).replace('|', '&#124;')} |" for key, value in rows.items())
    return "\n".join(["| | |", "|---|---|", *cells])


def _indented(text: str) -> str:
    return "\n".join(f"    {line}".rstrip() for line in text.strip().splitlines())
