"""`train run`, noting when each step ends, as `benchmarks/speed/peer_run.py` does for the peers.

python -m benchmarks.speed.own_run RECORD run --shards ... (the arguments of `train`)
"""

import json
import sys
import time
from pathlib import Path

from train import cli
from train.training.output.log import RunLog


def main() -> None:
    """A JSON line a step: wall clock, CPU time of the process, and what the log says."""
    path, write = Path(sys.argv.pop(1)), RunLog.write

    def noted(self: RunLog, step: int, metrics: dict[str, float]) -> None:
        with path.open("a", encoding="utf-8") as record:
            record.write(json.dumps({"time": time.perf_counter(), "cpu": time.process_time(), **metrics}) + "\n")
        write(self, step, metrics)

    RunLog.write = noted  # type: ignore[method-assign]
    cli.main()


if __name__ == "__main__":
    main()
