"""What one of two real processes fails at ends both, also where no launcher would end the other."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from accelerate import Accelerator

from train.errors import ModelError
from train.processes import by_one


def test_one_process_alone_gives_what_its_work_gives() -> None:
    accelerator = Accelerator(cpu=True)
    assert by_one(accelerator, lambda: [1, 2]) == [1, 2]

    def fails() -> None:
        raise ModelError("no such model")

    with pytest.raises(ModelError, match="no such model"):
        by_one(accelerator, fails)


@pytest.mark.slow
def test_a_model_that_one_process_cannot_put_together_ends_all_with_its_sentence(
    tmp_path: Path, sd: Path, shards: Path, recipe_file: Path
) -> None:
    config = tmp_path / "recipe.toml"
    config.write_text(f'vae = "{tmp_path}"\n{recipe_file.read_text()}')
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command: list[str | Path] = [sys.executable, "-m", "train.cli", "run", "--shards", shards, "--model", sd]
    command += ["--preset", "demo", "--config", config, "--output", tmp_path / "out"]
    alike = {"WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": 1}
    alike |= {"ACCELERATE_USE_CPU": "true"}
    started = [
        subprocess.Popen(
            command,
            env=os.environ | {key: str(value) for key, value in (alike | {"RANK": rank, "LOCAL_RANK": rank}).items()},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        said = [process.communicate(timeout=120)[1].splitlines()[-1] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [1, 1]
    assert said[0] == said[1]
    assert said[0].startswith(f"train: The VAE {tmp_path} cannot be opened: ")
