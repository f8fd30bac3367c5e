"""Every GPU path proved and measured, in nine minutes, the most telling first.

    python -m benchmarks.gpu                            on a machine with a CUDA device; what `make gpu` does
    python -m benchmarks.gpu --rehearse                 every part at tiny size on the CPU; `make gpu REHEARSE=1`
    python -m benchmarks.gpu --only embed-speed         some parts; --minutes 4 for less time
    python -m benchmarks.gpu --wheels DIR               on a machine that reaches no registry
    python -m benchmarks.gpu --diffusers DIR --salesforce DIR      beside the peers' training scripts

WORK/gpu.jsonl has a line for each row as soon as it is measured, DOCS/gpu.md is written anew after each part. A part
that fails says why, one that takes too long is ended, and the next one goes on.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.gpu import packages
from benchmarks.gpu.page import write_page
from benchmarks.gpu.plan import PARTS, Bench, Part, chosen, note_down, recorded

ROOT = Path(__file__).parents[2]
GRACE_SEC = 5
REHEARSED = {"OMP_NUM_THREADS": "1", "TORCHDYNAMO_DISABLE": "1"}


def main() -> int:
    """0 when all parts ran to their end and every bound holds, else 1."""
    options = read_options()
    options.work.mkdir(parents=True, exist_ok=True)
    record = options.work / "gpu.jsonl"
    record.unlink(missing_ok=True)
    if options.wheels:
        packages.install(options.wheels, options.work / "site")
    if missing := packages.lacking():
        print(f"not installed here in a version that will do: {', '.join(missing)}; {advice(options)}", file=sys.stderr)
        if not options.anyway:
            return 1
    machine = describe(options)
    facts = {"machine": machine, "date": time.strftime("%Y-%m-%d"), "rehearsal": options.rehearse}
    note_down(record, "start", facts | {"versions": packages.versions()})
    print(f"{machine}; {options.minutes:g} minutes", flush=True)
    work_through(options, record)
    write_page(record, options.docs)
    return verdict(recorded(record))


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rehearse", action="store_true", help="every part at tiny size on the CPU")
    parser.add_argument("--minutes", type=float, help="for all parts together  [9; of a rehearsal 30]")
    parser.add_argument("--only", help=f"parts to do, with commas: {', '.join(part.name for part in PARTS)}")
    parser.add_argument("--work", type=Path, default=Path("run/gpu"), help="folder of the record and what parts say")
    parser.add_argument("--docs", type=Path, help="where gpu.md goes  [docs; of a rehearsal the folder of --work]")
    parser.add_argument("--wheels", type=Path, help="folder of wheels that are installed into WORK/site first")
    parser.add_argument("--anyway", action="store_true", help="go on although packages are missing or too old")
    parser.add_argument("--diffusers", type=Path, help="diffusers' examples/research_projects/diffusion_dpo")
    parser.add_argument("--salesforce", type=Path, help="a clone of SalesforceAIResearch/DiffusionDPO")
    options = parser.parse_args()
    options.docs = options.docs or (options.work if options.rehearse else Path("docs"))
    options.minutes = (30.0 if options.rehearse else 9.0) if options.minutes is None else options.minutes
    try:
        options.parts = chosen(options.only)
    except ValueError as error:
        parser.error(f"--only: {error}")
    return options


def advice(options: argparse.Namespace) -> str:
    """What to do about missing packages, in words for who has or has not a registry."""
    if options.wheels:
        return f"put them into {options.wheels}, or add --anyway and lose the parts that need them"
    return "`pip install -e .` here, or give a folder of wheels by --wheels (docs/gpu.md says how to fill it)"


def describe(options: argparse.Namespace) -> str:
    """The device, in a process of its own: this one is to stay light. Raises: SystemExit where there is none."""
    code = (
        "import torch; p = torch.cuda.is_available() and torch.cuda.get_device_properties(0);"
        "print(f'{p.name}, {p.total_memory / 2**30:.0f} GiB, torch {torch.__version__}, CUDA {torch.version.cuda}'"
        " if p else '')"
    )
    cores, told = os.cpu_count(), environment(options.work / "site", options.rehearse)
    if options.rehearse:
        return f"a rehearsal on the CPU, {cores} cores"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=told, check=False)
    name = done.stdout.strip()
    if not name:
        reason = f"torch does not load ({last_line(done.stderr)})" if done.returncode else "torch sees no CUDA device"
        raise SystemExit(f"{reason}: nothing to prove here; `make gpu REHEARSE=1` runs every part on the CPU")
    return f"{name}, {cores} cores"


def work_through(options: argparse.Namespace, record: Path) -> None:
    """The parts in order; each has its share of the time that is left, so what one leaves goes to the others."""
    until = time.monotonic() + 60 * options.minutes
    for number, part in enumerate(options.parts):
        limit = (until - time.monotonic()) * part.share / sum(one.share for one in options.parts[number:])
        print(f"\n{part.name}: {part.title}, {max(limit, 0):.0f} s at most", flush=True)
        ended = do(part, options, record, limit) if limit >= 1 else {"ended": "no time was left", "seconds": 0}
        print(f"  {ended['ended']}, {ended['seconds']} s", flush=True)
        note_down(record, part.name, ended)
        write_page(record, options.docs)


def do(part: Part, options: argparse.Namespace, record: Path, limit_sec: float) -> dict[str, Any]:
    """One part in its own process and folder, ended at its limit with all that it started."""
    device = "cpu" if options.rehearse else "cuda"
    log, began = options.work / f"{part.name}.log", time.monotonic()
    with tempfile.TemporaryDirectory(prefix="pairsieve-gpu-", ignore_cleanup_errors=True) as folder:
        peers = (str(path.resolve()) if path else None for path in (options.diffusers, options.salesforce))
        told = json.dumps(asdict(Bench(device, options.rehearse, folder, time.time() + limit_sec, *peers)))
        command = [sys.executable, "-m", "benchmarks.gpu.one_part", part.name, str(record.resolve()), told]
        with log.open("w", encoding="utf-8") as errors:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment(options.work / "site", options.rehearse),
                stderr=errors,
                start_new_session=True,
            )
            try:
                code: int | None = process.wait(limit_sec)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                end(process)
    seconds = round(time.monotonic() - began, 1)
    if code == 0:
        return {"ended": "done", "seconds": seconds}
    if code is None:
        return {"ended": f"ended at its limit of {limit_sec:.0f} s; the rows above stand", "seconds": seconds}
    return {"ended": f"failed: {last_line(log.read_text('utf-8', 'replace'))}", "seconds": seconds}


def end(process: subprocess.Popen[bytes]) -> None:
    """The part and every process that it started: they are one group."""
    for signal_number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, signal_number)
        except ProcessLookupError:
            return
        try:
            process.wait(GRACE_SEC)
        except subprocess.TimeoutExpired:
            continue


def environment(site: Path, rehearse: bool) -> dict[str, str]:
    """What parts run under: this repository and the wheels first, no hub.

    A rehearsal: one thread, since tiny tensors gain nothing from more, and the compiler's calls without its work.
    """
    paths = [str(ROOT), *([str(site.resolve())] if site.is_dir() else []), os.environ.get("PYTHONPATH", "")]
    told = {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "HF_HUB_OFFLINE": "1"}
    return os.environ | told | (REHEARSED if rehearse else {})


def last_line(text: str) -> str:
    """What was raised, where something was: libraries may say more as they end."""
    raised = text.rpartition("Traceback (most recent call last):\n")[2]
    lines = [line for line in raised.splitlines() if line.strip() and not line.startswith(" ")]
    if raised != text:
        return lines[0] if lines else "it ended in a traceback that is cut short"
    return lines[-1] if lines else "it said nothing"


def verdict(lines: Sequence[dict[str, Any]]) -> int:
    """Whether something failed, and one JSON line that says what."""
    unsound = [f"{line['part']}: {line['what']}" for line in lines if line.get("holds") is False]
    unfinished = [f"{line['part']}: {line['ended']}" for line in lines if line.get("ended", "done") != "done"]
    print(
        json.dumps(
            {
                "benchmark": "gpu",
                "rows": sum("what" in line for line in lines),
                "not_so": unsound,
                "unfinished": unfinished,
            }
        )
    )
    return 1 if unsound or unfinished else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that a part does not outlive its parent
    sys.exit(main())
