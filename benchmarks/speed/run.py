"""Every benchmark that needs nothing but the repository, one after the other: `make bench`.

python -m benchmarks.speed.run [NAME ...] runs these only. Each one's last JSON line is kept in docs/measured.jsonl with
its command. tests/test_docs_numbers.py says how docs/measured.md quotes it.
"""

import json
import subprocess
import sys
from pathlib import Path

BENCHMARKS = ("embed", "places", "preprocess", "rank", "plan", "export", "train")
KEPT = Path("docs/measured.jsonl")


def main() -> None:
    """Each benchmark prints a table, then one JSON line."""
    kept = {}
    if KEPT.exists():
        kept = {line["command"]: line for line in map(json.loads, KEPT.read_text(encoding="utf-8").splitlines())}
    for name in sys.argv[1:] or BENCHMARKS:
        print(f"\n== {name}", flush=True)
        line = ""
        with subprocess.Popen(
            [sys.executable, "-m", f"benchmarks.speed.{name}"], stdout=subprocess.PIPE, text=True
        ) as running:
            assert running.stdout is not None
            for line in running.stdout:
                print(line, end="", flush=True)
        if running.returncode:
            sys.exit(running.returncode)
        command = f"python -m benchmarks.speed.{name}"
        kept[command] = {"command": command} | json.loads(line)
        KEPT.write_text("".join(json.dumps(kept[command]) + "\n" for command in sorted(kept)), encoding="utf-8")


if __name__ == "__main__":
    main()
