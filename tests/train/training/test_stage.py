"""What the options come to."""

from pathlib import Path

import pytest

from train.errors import ShardError
from train.training.stage import TrainOptions, plan


def test_of_a_machine_s_processes_one_hashes_the_shards(own_shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tar = own_shards / "pairs-000001.tar"
    data = bytearray(tar.read_bytes())
    data[-1] ^= 1  # in the padding: all else is as it was
    tar.write_bytes(data)
    options = TrainOptions(shards=own_shards, preset="demo")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert plan(options)["pairs"] == 6
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(ShardError, match="its sha256 differs"):
        plan(options)
