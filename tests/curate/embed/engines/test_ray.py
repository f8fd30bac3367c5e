"""The Ray engine on a real local cluster."""

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from curate.embed.engines.dispatcher import DEATHS
from curate.embed.engines.ray import RayEngine, connected
from curate.errors import RunError, SourceError, UsageError
from tests.curate.engine_work import Touch, items, own_process

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


def test_two_actors_share_the_tasks(engine: RayEngine, tmp_path: Path) -> None:
    assert engine == RayEngine("cpu", 2, 2)
    work, reports = Touch(tmp_path, seconds=0.1), list[Any]()
    engine.run(work, items(12), reports.append)
    assert all(work.is_done(task) for task in items(12))
    assert len(work.processes()) == 2
    assert sorted(reports) == sorted((kind, task.name, "cpu") for task in items(12) for kind in ("began", "ended"))


def test_a_killed_actor_is_replaced_and_its_task_handed_out_again(
    engine: RayEngine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work, reports = Touch(tmp_path, fatal=(("item-2", 1),), seconds=0.05), list[Any]()
    engine.run(work, items(6), reports.append)
    assert all(work.is_done(task) for task in items(6))
    assert [name for kind, name, _ in reports if kind == "ended"].count("item-2") == 1
    told = [line for line in capsys.readouterr().err.splitlines() if "died" in line]
    assert len(told) == 1
    assert re.fullmatch(
        r"worker [01] died \(its process or its machine is gone\); item-2 will be computed again", told[0]
    )


def test_a_task_that_keeps_killing_ends_the_run(engine: RayEngine, tmp_path: Path) -> None:
    work = Touch(tmp_path, fatal=(("item-1", DEATHS),))
    with pytest.raises(RunError, match=r"^item-1 was in hand when 3 workers died "):
        engine.run(work, items(3), lambda _: None)


def test_what_an_actor_raises_is_raised_here(engine: RayEngine, tmp_path: Path) -> None:
    with pytest.raises(SourceError) as caught:
        engine.run(Touch(tmp_path, failing="item-1"), items(5), lambda _: None)
    assert str(caught.value) == "item-1 is bad; mend it"
    assert "in a worker:" in caught.value.__notes__[0]


def test_a_worker_starts_also_for_no_task(engine: RayEngine, tmp_path: Path) -> None:
    engine.run(Touch(tmp_path), [], lambda _: None)


def test_a_cluster_without_gpus_says_so(engine: RayEngine) -> None:
    with (
        pytest.raises(UsageError, match=r"^--device cuda: the Ray cluster has 0 GPUs and 2 CPUs$"),
        connected(None, None, "cuda"),
    ):
        pass


def test_functions_are_answered_by_the_cluster(engine: RayEngine) -> None:
    assert engine.ask(own_process) != own_process()


def test_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError) as caught, connected(None, None, "auto"):
        pass
    assert str(caught.value) == (
        "--engine ray needs the package ray: pip install 'pairsieve[ray]', here and on every machine of the cluster"
    )
