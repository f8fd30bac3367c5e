"""What the device itself can do: a large matrix product, and a large copy. All other rates are held against them."""

from collections.abc import Callable, Iterator

import torch

from benchmarks.gpu.plan import Bench, Row
from curate.embed.device.batch_size import rate_of

SIDE, COPY_BYTES = 8192, 4 << 30


def ceilings(bench: Bench) -> Iterator[Row]:
    """Random numbers: zeros go faster."""
    yield Row("a matrix product in half precision, 8192³", matmul_tflops(bench), "TFLOP/s")
    values = torch.empty(1 << 20 if bench.rehearse else COPY_BYTES, dtype=torch.uint8, device=bench.device)
    target = torch.empty_like(values)
    copied = _rate(bench, lambda: target.copy_(values)) * 2 * values.numel()
    yield Row("a copy on the device, bytes read and written", copied / 1e12, "TB/s")


def matmul_tflops(bench: Bench) -> float:
    """bfloat16, as far as the device goes with it."""
    side = 128 if bench.rehearse else SIDE
    one, other = (torch.randn(side, side, device=bench.device).bfloat16() for _ in range(2))
    return _rate(bench, lambda: one @ other) * 2 * side**3 / 1e12


def _rate(bench: Bench, work: Callable[[], object]) -> float:
    """Times a second; several at once, so that starting them costs nothing."""

    def some() -> int:
        for _ in range(10):
            work()
        if bench.device.startswith("cuda"):
            torch.cuda.synchronize()
        return 10

    return rate_of(some, 0.05 if bench.rehearse else 1.0)
