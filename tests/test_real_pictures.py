"""The whole job on real pictures with real human judgements, in Pick-a-Pic's columns."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data" / "real_pairs"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not DATA.is_dir(), reason="the real pictures are not beside the checkout"),
]


def command(half: str, *arguments: object) -> dict[str, Any]:
    """The JSON that one command prints."""
    done = subprocess.run(
        [sys.executable, "-m", f"{half}.cli", *map(str, arguments), "--json"],
        capture_output=True, text=True, cwd=ROOT, env=os.environ, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def counted() -> dict[str, int]:
    """The same counts, from the Parquet's columns alone."""
    columns = ["caption", "image_0_uid", "image_1_uid", "label_0"]
    rows = [row for file in sorted(DATA.glob("*.parquet")) for row in pq.read_table(file, columns=columns).to_pylist()]
    decided = [row for row in rows if row["label_0"] != 0.5]
    return {
        "rows": len(rows),
        "ties": len(rows) - len(decided),
        "images": len({row[f"image_{side}_uid"] for row in rows for side in (0, 1)}),
        "prompts": len({row["caption"] for row in rows}),
        "decided": len(decided),
        "selected": int(0.0533 * len(decided) + 0.5),
    }


def test_the_whole_job(tmp_path: Path) -> None:
    run, expected = tmp_path / "run", counted()
    manifest = ROOT / "data_manifests" / "pickapic_v2.toml"
    embedded = command(
        "curate", "embed", "--run", run, "--models", "demo", "--manifest", manifest, "--source", DATA / "*.parquet"
    )  # fmt: skip
    assert embedded["source_rows"] == embedded["pairs"] == expected["rows"] == 1920
    assert embedded["ties"] == expected["ties"] == 520
    assert embedded["images"] == embedded["scored_images"] == expected["images"] == 145
    assert embedded["prompts"] == expected["prompts"] == 27

    ranked = command("curate", "rank", "--run", run, "--top", "0.0533")
    assert ranked["base_pairs"] == expected["decided"] == 1400
    assert ranked["selected_pairs"] == expected["selected"] == 75
    exported = command("curate", "export-shards", "--run", run)
    assert exported["pairs"] == expected["selected"]

    trained = command("train", "run", "--shards", run / "shards", "--model", "demo", "--steps", 20)
    assert trained["steps"] == 20
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red circle\na small blue square\n")
    command(
        "train", "sample", "--model", trained["model"], "--prompts", prompts, "--output", run / "sampled", "--steps", 5
    )
    evaluation = run / "evaluation"
    command("curate", "embed", "--run", evaluation, "--manifest", run / "sampled" / "manifest.toml")
    compared = command("curate", "compare", "--run", evaluation)
    assert compared["pairs"] == 2
    assert {item["scorer"] for item in compared["verdicts"]} == {"clip", "pickscore", "aesthetic"}
    assert (compared["pictures"], compared["pictures_missing"]) == (4, 0)
    assert Path(compared["page"]).stat().st_size > 10_000
