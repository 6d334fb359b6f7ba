"""Whether a study that has grown is as fast as a new one.

    python tests/benchmarks/flat.py [--rounds 5] [--seconds 8] [--trials 100000] [--postgresql]

Two `tunesmith serve` side by side, one with a study of 100 finished trials, one with the same study of
100,000 and 2,000,000 points (`seed_dashboard.py`). In both 64 light workers take trials enqueued by hand
through claim, one report and finish. Printed: cycles a second, how long each server took until it was ready,
and the most memory of the server with its writer, and of its planner. Exit code 1 if a goal is missed.
"""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import psutil

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(Path(__file__).parent)]

from interleaved import Goal, add_options, report, take_turns  # noqa: E402
from light_load import work  # noqa: E402
from processes import planner_of, until, writer_of  # noqa: E402
from seed_dashboard import NAME, SPEC, seed  # noqa: E402
from served import AT_ONCE, Serve, place  # noqa: E402
from tunesmith_service import db, migrate  # noqa: E402

FEW = 100
MOST_A_SECOND = 1000
READY_SECONDS, MEMORY_MB = 5.0, 400
PARAMS: dict[str, Any] = {
    "lr": 0.01, "weight_decay": 1e-4, "dropout": 0.1, "width": 64, "optimizer": "momentum"
}  # fmt: skip


class Grown(Serve):
    """A server whose study has so many trials already; started only then."""

    def __init__(self, home: Path, url: str, trials: int) -> None:
        home.mkdir()
        engine = db.open_engine(url or f"sqlite:///{home / 'tunesmith.db'}")
        migrate.upgrade(engine)
        seed(engine, home, trials)
        engine.dispose()
        began = time.monotonic()
        super().__init__(home, url)
        until(lambda: httpx.get(f"{self.url}/readyz").status_code == 200, 60, saw=lambda: self.said)
        self.ready_seconds = time.monotonic() - began
        self.memory_mb = 0.0
        self.planner_mb = 0.0

    def cycles_per_second(self, seconds: float) -> float:
        with self.people() as people:
            ready = int(MOST_A_SECOND * seconds) - people.get("studies", NAME)["counts"]["waiting"]
            for begin in range(0, ready, AT_ONCE):
                params = [PARAMS] * min(AT_ONCE, ready - begin)
                people.post("studies", NAME, "trials", json={"params": params, "stage": "restarts"})
        done = work(self.load(seconds, task=SPEC["task"]))
        both = _resident_mb(psutil.Process(self.pid)) + _resident_mb(writer_of(self.pid))
        self.memory_mb = max(self.memory_mb, both)
        self.planner_mb = max(self.planner_mb, _resident_mb(planner_of(self.pid)))
        return done.cycles_per_second


def _resident_mb(process: psutil.Process) -> float:
    return process.memory_info().rss / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add_options(parser, seconds=8.0)
    parser.add_argument("--trials", type=int, default=100_000)
    parser.add_argument("--postgresql", action="store_true")
    options = parser.parse_args()
    with place(options.home, postgresql=options.postgresql) as (home, postgres), ExitStack() as stack:
        servers = {}
        for trials in (FEW, options.trials):
            url = postgres.database(f"of_{trials}") if postgres else ""
            servers[f"{trials:,} trials"] = stack.enter_context(Grown(home / str(trials), url, trials))
        measures = {
            name: (lambda one=one: one.cycles_per_second(options.seconds)) for name, one in servers.items()
        }
        found = take_turns(measures, options.rounds)
        few, many = servers
        missed = report(found, "cycles/s", [Goal(many, few, 0.9)], options.json)
        for name, one in servers.items():
            print(
                f"{name}: ready after {one.ready_seconds:.1f} s (goal: at most {READY_SECONDS:g}); memory of "
                f"the server {one.memory_mb:.0f} MB (goal: at most {MEMORY_MB}), "
                f"of the planner {one.planner_mb:.0f} MB"
            )
            missed += [f"{name}: ready late"] if one.ready_seconds > READY_SECONDS else []
            missed += [f"{name}: too much memory"] if one.memory_mb > MEMORY_MB else []
    sys.exit("\n".join(missed) or 0)


if __name__ == "__main__":
    main()
