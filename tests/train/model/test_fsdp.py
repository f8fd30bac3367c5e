"""Weights spread over two real processes: the same training, checkpoints that any number of processes go on from."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.demo import ROOT
from tests.train import tiny
from tests.train.training.test_run import RunTiny, assert_close, equal, log, weights
from train.config import load_recipe
from train.errors import SettingsError
from train.model import fsdp

SPREAD = f"""
[data]
resolution_px = {tiny.RESOLUTION_PX}
flips = true
validation_pairs = 1
[optimizer]
learning_rate = 1e-3
warmup_steps = 2
ema_decay = 0.5
[run]
steps = 4
batch_pairs = 4
micro_batch_pairs = 1
checkpoint_every_steps = 2
validate_every_steps = 2
sample_every_steps = 4
sample_prompts = 1
fsdp = true
"""
HELD = """
import sys
import torch
from accelerate import Accelerator
from torch.distributed.tensor import DTensor
from train.config import load_recipe
from train.data.latents import Batch
from train.model.families import Conditioning, load
from train.model.policy import make_policy
from train.training.pair_errors import pair_errors
accelerator = Accelerator(mixed_precision="bf16")
model = load(sys.argv[1])
count = sum(weight.numel() for weight in model.denoiser.parameters())
recipe = load_recipe("sd15", flags={"run": {"fsdp": True, "mixed_precision": "bf16"}})
policy, reference = make_policy(model, recipe, accelerator.device, torch.bfloat16, accelerator.num_processes)
own = [weight.to_local().numel() for weight in policy.parameters() if isinstance(weight, DTensor)]
assert len(own) == len(list(policy.parameters()))
print("share", sum(own) / count)

gathered = set()
with reference() as frozen:
    for module in [*policy.modules(), *frozen.modules()]:
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d | torch.nn.GroupNorm | torch.nn.LayerNorm):
            module.register_forward_pre_hook(lambda layer, _: gathered.add(layer.weight.dtype))
torch.manual_seed(0)
latents, noise = torch.randn(2, 3, 4, 16, 16), torch.randn(3, 4, 16, 16)
batch = Batch(latents, noise, torch.tensor([1, 500, 999]), Conditioning(torch.randn(6, 12, 16)))
with accelerator.autocast():
    errors = pair_errors(policy, reference, model.scheduler, batch)
assert gathered == {torch.bfloat16}, gathered
assert torch.equal(errors.policy_w, errors.reference_w)
errors.policy_w.sum().backward()
assert {weight.grad.dtype for weight in policy.parameters()} == {torch.float32}
accelerator.end_training()
"""


def two_processes(*command: object) -> subprocess.CompletedProcess[str]:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*launch, *map(str, command)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "spread.toml"
    path.write_text(SPREAD)
    return path


@pytest.fixture
def alone(tmp_path: Path) -> Path:
    """The same recipe with the weights in one piece."""
    path = tmp_path / "alone.toml"
    path.write_text(SPREAD.replace("fsdp = true", ""))
    return path


@pytest.fixture
def run_spread(sd: Path, shards: Path, config: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    def run(output: Path, *options: object) -> subprocess.CompletedProcess[str]:
        fixed = ("--shards", shards, "--model", sd, "--preset", "demo", "--config", config, "--output", output)
        return two_processes("-m", "train.cli", "run", "--json", *fixed, *options)

    return run


@pytest.mark.slow
def test_spread_weights_train_as_whole_ones_and_go_on_in_any_number_of_processes(
    run_tiny: RunTiny,
    run_spread: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path: Path,
    config: Path,
    alone: Path,
) -> None:
    assert run_tiny(tmp_path / "one", "--config", alone).code == 0
    assert json.loads(run_spread(tmp_path / "two").stdout)["steps"] == 4
    for name in ("loss", "grad_norm", "validation_loss", "validation_implicit_accuracy"):
        one, two = ([line[name] for line in log(tmp_path / run) if name in line] for run in ("one", "two"))
        assert two == pytest.approx(one, rel=1e-3), name
    assert_close(weights(tmp_path / "two"), weights(tmp_path / "one"))
    trained = Path("model", "unet", "diffusion_pytorch_model.safetensors")  # the moving average
    assert_close(load_file(tmp_path / "two" / trained), load_file(tmp_path / "one" / trained))
    assert (tmp_path / "two" / "samples" / "step-000004.png").is_file()

    for name in ("broken", "lonely"):
        shutil.copytree(tmp_path / "two", tmp_path / name)
        shutil.rmtree(tmp_path / name / "checkpoints" / "step-000004")
        (tmp_path / name / "summary.json").unlink()
    config.write_text(SPREAD.replace("sample_every_steps = 4\n", ""))  # drawing is slow where weights are gathered
    assert "Resuming after step 2." in run_spread(tmp_path / "broken", "--resume").stderr
    assert equal(weights(tmp_path / "two"), weights(tmp_path / "broken"))
    assert run_tiny(tmp_path / "lonely", "--config", alone, "--resume").code == 0
    assert_close(weights(tmp_path / "lonely"), weights(tmp_path / "two"))


@pytest.mark.slow
def test_each_process_holds_a_share_of_every_weight_and_gathers_it_in_half(sd: Path, tmp_path: Path) -> None:
    script = tmp_path / "held.py"
    script.write_text(HELD)
    shares = [float(line.split()[1]) for line in two_processes(script, sd).stdout.splitlines() if "share" in line]
    assert sum(shares) == pytest.approx(1)
    assert max(shares) < 0.6


@pytest.mark.parametrize(
    ("settings", "processes", "message"),
    [
        (
            {"run": {"fsdp": True}},
            1,
            "run.fsdp spreads weights over processes, and there is one; start more by `accelerate launch`, or leave it"
            " out.",
        ),
        (
            {"run": {"fsdp": True, "mixed_precision": "no"}, "lora": {"rank": 2}},
            2,
            "run.fsdp is for a full fine-tune; a LoRA's weights fit each device: leave it out.",
        ),
        (
            {"run": {"fsdp": True, "mixed_precision": "no"}, "optimizer": {"name": "adafactor"}},
            2,
            'run.fsdp spreads the moments of optimizer.name "adamw"; adafactor cannot be spread.',
        ),
        (
            {"run": {"fsdp": True, "mixed_precision": "fp16"}},
            2,
            'run.fsdp does not scale losses for fp16; set run.mixed_precision = "bf16".',
        ),
        (
            {"run": {"fsdp": True, "mixed_precision": "no"}, "data": {"buckets": True}},
            2,
            "run.fsdp needs pictures of one shape; set data.buckets = false.",
        ),
        (
            {"run": {"fsdp": True, "mixed_precision": "no", "batch_pairs": 8, "micro_batch_pairs": 2}},
            3,
            "run.fsdp needs all processes to take as many pairs: run.batch_pairs 8 is no multiple of"
            " run.micro_batch_pairs 2 x 3 processes = 6.",
        ),
    ],
)
def test_what_does_not_go_with_spread_weights(
    settings: dict[str, dict[str, object]], processes: int, message: str
) -> None:
    recipe = load_recipe("sd15", flags=settings)
    with pytest.raises(SettingsError) as caught:
        fsdp.check(recipe, processes)
    assert str(caught.value) == message
