"""Run a soak, or put the summaries of some side by side.

Exit code 1 if an invariant was violated or a goal was missed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from soak.chaos import Plan, soak
from soak.table import markdown, put

MOST_TOLD = 50


def main() -> int:
    parser = argparse.ArgumentParser(prog="soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--database", choices=("sqlite", "postgres"), default="sqlite")
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--no-trainers", action="store_true", help="no real worker, which needs torch")
    parser.add_argument("--seeded", type=int, default=0, metavar="N", help="finished trials to begin with")
    parser.add_argument("--seed", type=int, default=0, help="of the random choices")
    parser.add_argument("--epoch-seconds", type=float, default=1.5)
    parser.add_argument("--ttl-seconds", type=float, default=30.0)
    parser.add_argument("--pace", type=float, default=1.0, help="of the faults; 2 is twice as many")
    parser.add_argument("--servers", type=int, default=1, help="on one PostgreSQL")
    parser.add_argument("--kill-server-every", type=float, metavar="SECONDS", help="each in turn, to the end")
    parser.add_argument("--into", type=Path, metavar="DIR", help="write a summary and a log there")
    parser.add_argument("--table", type=Path, nargs="+", metavar="JSON", help="only show these summaries")
    parser.add_argument("--document", type=Path, metavar="MD", help="put that table into its section")
    asked = parser.parse_args()
    if asked.table:
        told = [json.loads(path.read_text()) for path in sorted(asked.table, reverse=True)]  # SQLite first
        print(markdown(told))
        if asked.document:
            put(asked.document, told)
        return 0
    summary, said = soak(
        Plan(
            asked.minutes, asked.database, asked.workers, not asked.no_trainers, asked.seed, asked.seeded,
            asked.epoch_seconds, asked.ttl_seconds, pace=asked.pace,
            servers=asked.servers, kill_every=asked.kill_server_every,
        ),
        say=lambda told: print(f"{time.strftime('%H:%M:%S')} {told}", file=sys.stderr, flush=True),
    )  # fmt: skip
    if asked.into:
        asked.into.mkdir(parents=True, exist_ok=True)
        name = asked.database if asked.servers == 1 else f"{asked.database}-{asked.servers}-servers"
        (asked.into / f"{name}.json").write_text(summary.json())
        (asked.into / f"{name}.log").write_text(said)
    print(markdown([asdict(summary)]))
    for line in (*summary.violations[:MOST_TOLD], *summary.missed, *summary.taken_alive[:MOST_TOLD]):
        print(line)
    return 1 if summary.violations or summary.missed else 0


if __name__ == "__main__":
    sys.exit(main())
