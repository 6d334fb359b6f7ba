"""How many reports a second are taken, of one point each and of fifty.

    python tests/benchmarks/reports.py [--rounds 5] [--seconds 6] [--only NAME …] [--json FILE]

64 light workers with long trials report as soon as their last report was answered, to a `tunesmith serve` on
SQLite and on PostgreSQL, and to empty FastAPI routes that take the same requests (`empty_routes.py`). Points
are kept, numbered and on the disk before they are answered. Exit code 1 if a goal is missed.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(Path(__file__).parent)]

from databases import Postgres  # noqa: E402
from interleaved import Goal, Measure, add_options, report, take_turns  # noqa: E402
from served import EmptyRoutes, Serve, place  # noqa: E402

WORKERS, LONG, BATCH = 64, 1_000_000, 50
GOALS = (
    Goal("SQLite, one point", "empty routes, one point", 0.55),
    Goal("PostgreSQL, one point", "empty routes, one point", 0.55),
)
POINTS_A_SECOND = 20_000


def measures(home: Path, postgres: Postgres, seconds: float, stack: ExitStack) -> dict[str, Measure]:
    """Points a second of each."""
    sqlite = stack.enter_context(Serve(home / "sqlite"))
    other = stack.enter_context(Serve(home / "postgresql", postgres.database("tunesmith")))
    empty = stack.enter_context(EmptyRoutes())

    def of(serve: Serve, points: int) -> Measure:
        return lambda: points * serve.work(WORKERS, seconds, reports=LONG, points=points).reports_per_second

    def nothing(points: int) -> Measure:
        return lambda: points * empty.work(seconds, reports=LONG, points=points).reports_per_second

    found: dict[str, Measure] = {}
    for points, words in ((1, "one point"), (BATCH, "fifty points")):
        found |= {
            f"empty routes, {words}": nothing(points),
            f"SQLite, {words}": of(sqlite, points),
            f"PostgreSQL, {words}": of(other, points),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add_options(parser, seconds=6.0)
    options = parser.parse_args()
    with place(options.home) as (home, postgres), ExitStack() as stack:
        assert postgres is not None
        every = measures(home, postgres, options.seconds, stack)
        chosen = {n: m for n, m in every.items() if not options.only or n in options.only}
        found = take_turns(chosen, options.rounds)
    missed = report(found, "points/s", GOALS, options.json)
    for name in ("SQLite, fifty points", "PostgreSQL, fifty points"):
        if name in found and (most := sorted(found[name])[len(found[name]) // 2]) < POINTS_A_SECOND:
            missed.append(f"{name}: {most:,.0f} points/s (goal: at least {POINTS_A_SECOND:,})")
    sys.exit("\n".join(missed) or 0)


if __name__ == "__main__":
    main()
