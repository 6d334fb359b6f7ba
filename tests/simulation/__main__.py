"""Play one seed, or several, and say what they came to."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from databases import Databases

from simulation.run import play


def main() -> int:
    parser = argparse.ArgumentParser(prog="simulation", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--seeds", type=int, default=1, help="how many, from the first on")
    parser.add_argument("--trace", action="store_true", help="print all calls, faults and the log")
    parser.add_argument("--logs", action="store_true", help="print what service and workers log")
    parser.add_argument("--no-times", action="store_true", help="say nothing that differs from run to run")
    asked = parser.parse_args()
    databases = Databases()
    failed = 0
    try:
        for seed in range(asked.seed, asked.seed + asked.seeds):
            began = time.perf_counter()
            outcome = play(seed, databases=databases, logs=asked.logs)
            if asked.trace:
                print(outcome.text)
            took = "" if asked.no_times else f"{time.perf_counter() - began:.2f} s, "
            counts = dict(sorted(outcome.counts.items()))
            print(f"seed {seed}: {len(outcome.violations)} violations, {took}{counts}")
            for told in outcome.violations:
                print(f"  {told}")
            failed += bool(outcome.violations)
    finally:
        databases.close()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
