"""What the loop sets up before its first step."""

from pathlib import Path

import torch
from accelerate.state import AcceleratorState
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from train.config import load_recipe
from train.training.loop import open_accelerator


def test_gradients_of_several_processes_are_held_once(tmp_path: Path) -> None:
    """Each is a view into the bucket that is sent, also after the optimizer has let it go."""
    AcceleratorState._reset_state(True)
    handler = open_accelerator(load_recipe("demo")).ddp_handler
    assert handler is not None
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    try:
        layers = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Linear(5, 2))
        spread = DistributedDataParallel(layers, **handler.to_kwargs())
        for _ in range(2):
            layers.zero_grad()
            spread(torch.ones(1, 3)).sum().backward()
        buckets = {one.grad.untyped_storage().data_ptr() for one in layers.parameters() if one.grad is not None}
        assert len(buckets) == 1
    finally:
        distributed.destroy_process_group()
        AcceleratorState._reset_state(True)
