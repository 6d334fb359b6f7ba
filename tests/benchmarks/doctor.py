"""How long the doctor looks through a database, without the bytes beside it.

    python tests/benchmarks/doctor.py [--entries 1000000]

Half of the log's entries are events, half are reports of one point each, on SQLite in a temporary
directory. Exit code 1 if it takes longer than 60 s a million, or finds anything.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from factories import Bench
from sqlalchemy import Engine
from tunesmith_service import db, integrity, migrate

SECONDS_A_MILLION = 60
POINTS = '[{"step":1,"metrics":{"val/loss":0.5}}]'
_EACH = "WITH RECURSIVE each(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM each WHERE i < {n}) "
_EVENTS = (
    "INSERT INTO events (study_id, n, kind, trial_id, trial_number, at_us, actor, data) "
    "SELECT 1, {first} + i, 'redrawn', 1, 0, 1, 'planner', '{{}}' FROM each"
)
_REPORTS = (
    "INSERT INTO reports (trial_id, attempt, seq, study_id, n, trial_number, stage, at_us, digest, points) "
    "SELECT 1, 1, 1 + i, 1, {first} + i, 0, 'random', 1, '{digest}', '{points}' FROM each"
)


def fill(engine: Engine, entries: int) -> int:
    """A study with one running trial and a log of so many entries. Returns how many there are."""
    bench = Bench(engine)
    study = bench.study()
    bench.trial(study)
    bench.report(bench.claim(), 1, 0.5)
    first, half = bench.event_n(study), entries // 2
    digest = hashlib.sha256(POINTS.encode()).hexdigest()
    with db.writing(engine).begin() as conn:
        conn.exec_driver_sql(_EACH.format(n=half) + _EVENTS.format(first=first))
        filled = _REPORTS.format(first=first + half, digest=digest, points=POINTS)
        conn.exec_driver_sql(_EACH.format(n=half) + filled)
        conn.exec_driver_sql(f"UPDATE studies SET event_n = {first + 2 * half}")
    return first + 2 * half


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, default=1_000_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        engine = db.open_engine(f"sqlite:///{directory}/large.db")
        migrate.upgrade(engine)
        entries = fill(engine, options.entries)
        began = time.perf_counter()
        found = integrity.examine(engine, None)
        seconds = time.perf_counter() - began
        engine.dispose()
    print(f"{entries} entries in {seconds:.1f} s, {len(found)} findings")
    return int(bool(found) or seconds > SECONDS_A_MILLION * entries / 1e6)


if __name__ == "__main__":
    sys.exit(main())
