"""How many trials a second the writer takes through claim, report and finish: one batch for each.

    python tests/benchmarks/write_cycles.py [--trials 2000]

SQLite lies in a temporary directory on the disk, PostgreSQL is the test session's; both wait for the
disk at each commit. Prints a row for each database and batch size.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from databases import Databases
from factories import WORK, Bench, report
from tunesmith_service import commands as c
from tunesmith_service import db, migrate


def cycles_per_second(bench: Bench, trials: int, batch: int) -> float:
    """Trials claimed, reported on once and finished, `batch` of them in each transaction."""
    study = bench.study(f"batch {batch}")
    for start in range(0, trials, 256):
        bench.batch(
            *(
                c.Propose(study, "random", str(i), i, {"lr": 0.1}, WORK, None, {}, 0, draft=False)
                for i in range(start, min(start + 256, trials))
            )
        )
    slots = bench.register(batch)
    began = time.perf_counter()
    for _ in range(trials // batch):
        asked = [bench.ask(slot) for slot in slots]
        grants = [bench.granted(a, o) for a, o in zip(asked, bench.batch(*asked), strict=True)]
        bench.batch(*(report(g, 1, 0.5) for g in grants))
        bench.batch(*(c.Finish(g.lease, "complete", "budget") for g in grants))
    return trials // batch * batch / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=1024)
    args = parser.parse_args()
    databases = Databases()
    with tempfile.TemporaryDirectory() as home:
        urls = {"sqlite": f"sqlite:///{home}/a.db", "postgresql": databases.make("postgresql")}
        for name, url in urls.items():
            engine = db.open_engine(url)
            migrate.upgrade(engine)
            bench = Bench(engine)
            for batch in (1, 16, 64, 256):
                trials = min(args.trials, 16 * batch)
                print(
                    f"{name:>10}  batch {batch:>3}  {cycles_per_second(bench, trials, batch):7.0f} cycles/s",
                    flush=True,
                )
            engine.dispose()
    databases.close()


if __name__ == "__main__":
    main()
