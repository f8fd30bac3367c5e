"""Every benchmark that needs nothing but the repository, one after the other: `make bench`."""

import subprocess
import sys

BENCHMARKS = ("embed", "places", "rank", "plan", "export", "train")


def main() -> None:
    """Each benchmark prints a table, then one JSON line."""
    for name in BENCHMARKS:
        print(f"\n== {name}", flush=True)
        subprocess.run([sys.executable, "-m", f"benchmarks.speed.{name}"], check=True)


if __name__ == "__main__":
    main()
