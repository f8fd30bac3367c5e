"""`make reproduce`: every job that is not done yet, the most important first, then the report.

    python -m benchmarks.reproduction.run                   all of it, into run/reproduction and docs
    python -m benchmarks.reproduction.run --plan            what is left to do and how long it will take
    python -m benchmarks.reproduction.run --report-only     the report of what is there

Each job leaves one file, written whole or not at all, so a killed run goes on where it stopped; several of them
may work on one folder, as the workers of one do.
"""

import argparse
import json
import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from benchmarks.reproduction.arms import Job, all_arms, jobs_of
from benchmarks.reproduction.job import Bench, results_folder
from benchmarks.reproduction.planner import plan_lines
from benchmarks.reproduction.tuning import final_arms
from benchmarks.reproduction.world import FULL, Size, open_world
from train.terminal import silence_libraries

WORK, DOCS = Path("run/reproduction"), Path("docs")
EXPERIMENTS = {arm.experiment for arm in all_arms()} | {"final"}


def todo(work: Path, jobs: Sequence[Job]) -> list[Job]:
    """Jobs whose result is not there."""
    return [job for job in jobs if not (results_folder(work) / f"{job.key}.json").exists()]


def work_through(work: Path, jobs: Sequence[Job], workers: int, until_sec: float, size: Size = FULL) -> None:
    """The jobs in order, shared out to single-threaded processes one by one; stops taking new ones at `until_sec`."""
    started = time.monotonic()
    open_world(work, size)  # made once, before the workers ask for it
    if workers == 1:
        bench = Bench(work, size)
        for number, job in enumerate(jobs, start=1):
            if time.monotonic() - started > until_sec:
                break
            _tell(number, len(jobs), bench.do(job), started)
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), _open_bench, (work, size)) as pool:
        waiting = iter(jobs)
        running = {pool.submit(_do, job) for _, job in zip(range(2 * workers), waiting, strict=False)}
        number = 0
        while running:
            done = next(as_completed(running))
            running.remove(done)
            number += 1
            _tell(number, len(jobs), done.result(), started)
            following = next(waiting, None) if time.monotonic() - started < until_sec else None
            if following is not None:
                running.add(pool.submit(_do, following))


_BENCH: list[Bench] = []


def _open_bench(work: Path, size: Size) -> None:
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    torch.set_num_threads(1)
    silence_libraries()
    _BENCH.append(Bench(work, size))


def _end_with_parent(parent: int) -> None:
    """A worker whose parent was killed would wait for its next job for ever."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _do(job: Job) -> dict[str, Any]:
    return _BENCH[0].do(job)


def _tell(number: int, count: int, result: dict[str, Any], started: float) -> None:
    last = result["curve"][-1]
    print(
        f"{number}/{count} {result['experiment']}: {result['arm']}, seed {result['settings']['seed']}:"
        f" {last['test_truth']:+.2f} in {result['cpu_sec']:.1f} CPU s; {time.monotonic() - started:.0f} s so far",
        flush=True,
    )


def main() -> None:
    """Parse options, work, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=WORK, help="folder of what is kept between runs")
    parser.add_argument("--docs", type=Path, default=DOCS, help="where the report goes")
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--hours", type=float, default=3.0, help="take no new job after so long; run again to go on")
    parser.add_argument("--only", help="experiments to do, with commas; all by default")
    parser.add_argument("--plan", action="store_true", help="print what is left and its expected time, do nothing")
    parser.add_argument("--report-only", action="store_true", help="write the report of what is there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    silence_libraries()
    chosen = None if options.only is None else options.only.split(",")
    if unknown := set(chosen or ()) - EXPERIMENTS:
        parser.error(f"--only: there is no experiment {min(unknown)}; there are {', '.join(sorted(EXPERIMENTS))}")
    if options.plan:
        print("\n".join(plan_lines(options.work, chosen, options.workers)))
        return
    if not options.report_only:
        until, started = 3600 * options.hours, time.monotonic()
        work_through(options.work, todo(options.work, jobs_of(chosen_arms(chosen))), options.workers, until)
        finals = final_arms(options.work) if chosen is None or "final" in chosen else []
        left = until - (time.monotonic() - started)
        work_through(options.work, todo(options.work, jobs_of(finals)), options.workers, left)
    from benchmarks.reproduction.report import write_report  # loaded late: charts are heavy

    print(json.dumps(write_report(options.work, options.docs)))


def chosen_arms(experiments: Sequence[str] | None) -> list[Any]:
    """The arms of some experiments, or all."""
    return [arm for arm in all_arms() if experiments is None or arm.experiment in experiments]


if __name__ == "__main__":
    main()
