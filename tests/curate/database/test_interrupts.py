"""Ctrl-C while DuckDB computes."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pytest

from curate.database.interrupts import stoppable, stops_at_ctrl_c
from schemas.command_line import INTERRUPTED
from tests.curate.builders import Outcome
from tests.curate.runs import HAND_PAIRS, HAND_SCORES, make_run

LONG = "select sum(sin(a.range * b.range)) from range(1000000) a, range(1000000) b"

pytestmark = pytest.mark.usefixtures("ctrl_c")


@contextmanager
def ctrl_c_in(after_sec: float) -> Iterator[None]:
    """Ctrl-C comes so long after the block begins, on a busy machine perhaps before its first line."""
    threading.Timer(after_sec, os.kill, (os.getpid(), signal.SIGINT)).start()
    yield


@pytest.mark.parametrize("after_sec", [0.05, 0.5, 1.0])
def test_ctrl_c_stops_a_query_and_the_connection_lives_on(after_sec: float) -> None:
    connection = stops_at_ctrl_c(duckdb.connect())
    with pytest.raises(KeyboardInterrupt), ctrl_c_in(after_sec), stoppable():
        connection.execute(LONG).fetchall()
    assert connection.execute("select 42").fetchall() == [(42,)]


def test_a_block_leaves_nothing_behind() -> None:
    threads, before = threading.active_count(), signal.set_wakeup_fd(-1)
    with stoppable():
        pass
    assert (threading.active_count(), signal.set_wakeup_fd(before)) == (threads, before)


@pytest.mark.parametrize("option", ["--where", "--metric"])
def test_a_query_of_the_users_that_does_not_end(curate: Callable[..., Outcome], tmp_path: Path, option: str) -> None:
    run = make_run(tmp_path / "run", HAND_PAIRS, HAND_SCORES)
    metric = tmp_path / "endless.sql"
    metric.write_text(f"select pair_id, ({LONG}) as quality from pair_scores")
    value = f"({LONG}) > 0" if option == "--where" else metric
    with ctrl_c_in(2.0):
        assert curate("rank", "--run", run.root, "--psi", "clip", option, value) == Outcome(
            130, "", f"curate: {INTERRUPTED}\n"
        )
    assert not list(run.rankings.glob("*"))
