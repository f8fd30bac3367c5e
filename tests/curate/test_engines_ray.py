"""The Ray engine on a real local cluster."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from curate.engines.ray import RayEngine, connected
from tests.curate.engine_work import Touch, items

pytest.importorskip("ray", reason="the extra pairsieve[ray] is not installed")


@pytest.fixture(scope="module")
def engine() -> Iterator[RayEngine]:
    """Two workers, as a cluster of this machine's own."""
    import ray

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=80_000_000, log_to_driver=False)
    try:
        with connected(None, None, "auto") as found:
            yield found
    finally:
        ray.shutdown()


def test_ray(engine, tmp_path: Path, capsys) -> None:
    assert engine == RayEngine("cpu", 2, 2)
    work, reports = Touch(tmp_path, seconds=0.1), list[Any]()
    t = time.time()
    engine.run(work, items(12), reports.append)
    print(time.time() - t)
    assert all(work.stands(task) for task in items(12))
    assert len(work.processes()) == 2
    assert len(reports) == 24
