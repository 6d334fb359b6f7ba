"""A study as large as the dashboard must bear: 100,000 trials with 2,000,000 points of their curves.

    python tests/benchmarks/seed_dashboard.py HOME [--trials 100000] [--url postgresql://…]

Stages as the recipe has them: a range test, a coarse grid, a refined one, random search, restarts from
snapshots (which are forgotten by now). Rows go in by the thousand, but every counter, event number, digest
and cost is what the service's own handlers would have written; the log folds without a gap.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from sqlalchemy import Connection, Engine, Table, func, insert, select, update
from tunesmith_service import commands, db, guards, migrate
from tunesmith_service.blobs import BlobStore
from tunesmith_service.clock import SECOND
from tunesmith_service.tables import attempts, events, reports, snapshots, stages, studies, trials
from tunesmith_service.tokens import hash_secret
from ui.seeding import Seeder

TRIALS = 100_000
AT_ONCE = 2_000
EPOCHS_A_REPORT = 4
NAME = "a hundred thousand"
LRS = [10 ** (-4 + i / 12) for i in range(49)]
DECAYS = [0.0, *(10 ** (-6 + i / 8) for i in range(33))]
ERROR = {
    "kind": "OutOfMemoryError",
    "message": "CUDA out of memory. Tried to allocate 1.20 GiB",
    "traceback": "Traceback (most recent call last):\n  File \"train.py\", line 88, in step\n"
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.20 GiB\n",
}  # fmt: skip

SPEC: dict[str, Any] = {
    "name": NAME,
    "task": "images",
    "objective": {"metric": "val/loss", "direction": "minimize"},
    "space": {
        "lr": {"low": 1e-4, "high": 1.0, "log": True},
        "weight_decay": {"low": 1e-6, "high": 1e-2, "log": True, "zero": True},
        "dropout": {"low": 0.0, "high": 0.5},
        "width": {"type": "int", "low": 16, "high": 256, "log": True},
        "optimizer": ["momentum", "adam", "adamw"],
    },
    "fixed": {"batch_size": 128, "schedule": "cosine"},
    "stages": [
        {"kind": "lr_range_test", "name": "range", "steps": 200},
        {"kind": "coarse_grid", "name": "coarse", "epochs": 10, "axes": {"lr": 49, "weight_decay": DECAYS}},
        {"kind": "refine_grid", "name": "refine", "epochs": 20, "top": 3},
        {"kind": "random", "name": "random", "epochs": 24, "trials": 40_000},
        {"kind": "weight_decay_restarts", "name": "restarts", "epochs": 30, "middle": 1e-3},
    ],
}  # fmt: skip
SHARES = {"coarse": 0.2, "refine": 0.3, "random": 0.4, "restarts": 0.1}
EPOCHS = {"coarse": 10, "refine": 22, "random": 26, "restarts": 30}


@dataclass
class Crowd:
    """Trials of one study as rows. `n` is the newest event, `at_us` the time of it."""

    study: int
    seeder: Seeder
    first_id: int
    n: int
    at_us: int
    gpu_us: int = 0
    made: int = 0
    points: int = 0
    next_snapshot: int = 1
    sources: list[tuple[int, int, int]] = field(default_factory=list)  # number, step, snapshot
    waiting: int = 0
    rows: dict[Table, list[dict[str, Any]]] = field(default_factory=dict)
    best: dict[str, list[tuple[float, int]]] = field(default_factory=dict)
    last_end: dict[str, int] = field(default_factory=dict)
    random: random.Random = field(default_factory=lambda: random.Random(5))

    def put(self, table: Table, **row: Any) -> None:
        self.rows.setdefault(table, []).append(row)

    def event(self, kind: str, trial: int | None, stage: str, actor: str, data: Mapping[str, Any]) -> int:
        self.n += 1
        cause = data.get("cause")
        self.put(
            events, study_id=self.study, n=self.n, kind=kind, stage=stage, at_us=self.at_us, actor=actor,
            trial_id=None if trial is None else self.first_id + trial, trial_number=trial, cause=cause,
            data=dict(data),
        )  # fmt: skip
        return self.n

    def flush(self, conn: Connection) -> None:
        for table in (trials, attempts, events, reports, snapshots):  # as foreign keys ask
            if found := self.rows.pop(table, []):
                conn.execute(insert(table), found)


def cut(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (items[i : i + size] for i in range(0, len(items), size))


def point(crowd: Crowd, stage: str) -> dict[str, Any]:
    """A trial's hyperparameters, as its stage picks them."""
    r = crowd.random
    fixed = {"batch_size": 128, "schedule": "cosine"}
    if stage in ("range", "coarse"):
        return {"lr": r.choice(LRS), "weight_decay": r.choice(DECAYS), "dropout": 0.1, "width": 64,
                "optimizer": r.choice(["momentum", "adam"])} | fixed  # fmt: skip
    spread = 0.15 if stage == "restarts" else 0.5 if stage == "refine" else 2.0
    lr = min(max(10 ** r.gauss(-1.7, spread), 1e-4), 1.0)
    decay = 0.0 if r.random() < 0.05 else min(max(10 ** r.gauss(-3.6, spread), 1e-6), 1e-2)
    return {
        "lr": lr, "weight_decay": decay, "dropout": round(r.uniform(0, 0.5), 4),
        "width": int(2 ** r.uniform(4, 8)), "optimizer": r.choice(["momentum", "adam", "adamw"]),
    } | fixed  # fmt: skip


def loss_of(params: Mapping[str, Any], r: random.Random) -> float:
    """Where a training of this point ends: a bowl in log(lr) and log(weight decay), with noise."""
    decay = math.log10(params["weight_decay"] or 1e-7)
    bowl = 0.09 * (math.log10(params["lr"]) + 1.7) ** 2 + 0.02 * (decay + 3.6) ** 2
    width = 0.05 * (8 - math.log2(params["width"]))
    return 0.32 + bowl + width + 0.2 * (params["dropout"] - 0.2) ** 2 + abs(r.gauss(0, 0.02))


def curve(end: float, epochs: int, total: int, r: random.Random) -> list[dict[str, Any]]:
    out = []
    for step in range(1, epochs + 1):
        left = math.exp(-5 * step / total)
        loss = round(end + (2.3 - end) * left + r.gauss(0, 0.004), 5)
        train = round(loss * (0.98 - 0.2 * step / total), 5)
        out.append({"step": step, "metrics": {"val/loss": loss, "train/loss": train}})
    return out


def sweep(r: random.Random) -> list[dict[str, Any]]:
    """A range test's loss: level, down, and up again."""
    out = []
    for step in range(1, 201):
        rate = 10 ** (-5 + 6 * step / 200)
        loss = 2.3 - 1.6 / (1 + math.exp(-4 * (math.log10(rate) + 2.5))) + max(0, math.log10(rate)) ** 2 * 3
        out.append({"step": step, "metrics": {"train/loss": round(loss + r.gauss(0, 0.02), 5), "lr": rate}})
    return out


@dataclass(frozen=True)
class Run:
    """How one trial goes: its points and its end."""

    points: list[dict[str, Any]]
    state: str
    reason: str
    value: float | None


def run_of(crowd: Crowd, stage: str, params: Mapping[str, Any]) -> Run:
    r, total = crowd.random, EPOCHS.get(stage, 1)
    if stage == "range":
        return Run(sweep(r), "complete", "budget", None)
    if params["lr"] > 0.6 and r.random() < 0.7:
        points = curve(2.3, 2, total, r)
        points.append({"step": 3, "metrics": {"val/loss": "Infinity", "train/loss": "Infinity"}})
        return Run(points, "pruned", "diverged", None)
    end, luck = loss_of(params, r), r.random()
    if luck < 0.01:
        return Run(curve(end, max(1, total // 4), total, r), "failed", "error", None)
    if luck < 0.1 and end > 0.7:
        return Run(curve(end, max(2, total // 3), total, r), "pruned", "pruned", None)
    points = curve(end, total, total, r)
    return Run(points, "complete", "budget", points[-1]["metrics"]["val/loss"])


def add_trial(crowd: Crowd, stage_id: int, stage: str, ordinal: int, *, waits: bool = False) -> None:
    """One trial with its attempt, reports and events, as claims, reports and a finish leave it."""
    number, params = crowd.made, point(crowd, stage)
    crowd.made += 1
    start = crowd.random.choice(crowd.sources) if stage == "restarts" and crowd.sources else None
    kind = "range_test" if stage == "range" else "train"
    planned = {
        "key": f"{stage}-{ordinal}", "ordinal": ordinal, "params": params,
        "work": {"epochs": EPOCHS.get(stage, 1), "seed": ordinal, "data_fraction": 1.0,
                 "stop_at_plateau": False, "keep_snapshot": False,
                 **({"kind": kind, "steps": 200} if kind != "train" else {})},
        "start": {"trial": start[0], "step": start[1]} if start else None,
        "sampler_state": {}, "planned_at": crowd.n, "draft": False, "hand": False,
    }  # fmt: skip
    crowd.event("planned", number, stage, "planner", planned)
    row = planned | {
        "id": crowd.first_id + number, "study_id": crowd.study, "stage_id": stage_id, "number": number,
        "kind": kind, "created_us": crowd.at_us, "start_snapshot_id": start[2] if start else None,
    }  # fmt: skip
    if waits:
        crowd.waiting += 1
        crowd.put(trials, **row, **_UNTOUCHED)
        return
    run = run_of(crowd, stage, params)
    crowd.put(trials, **row, **_ran(crowd, number, stage, run))
    if run.value is not None:
        crowd.best.setdefault(stage, []).append((run.value, number))


_UNTOUCHED: dict[str, Any] = {
    "state": "waiting", "attempt": 0, "report_seq": 0, "step": 0, "furthest": 0, "value": None,
    "stop_reason": None, "last_metrics": None, "error": None, "started_us": None, "ended_us": None,
    "incarnation": None, "claim_id": None, "worker_id": None, "slot_id": None, "boot_id": None, "failures": 0,
}  # fmt: skip


def _ran(crowd: Crowd, number: int, stage: str, run: Run) -> dict[str, Any]:
    seeder, began = crowd.seeder, crowd.at_us
    claim, actor = f"{number:032x}", f"worker {seeder.worker_id}"
    secret = hash_secret(claim).hex()
    moved = {"from": "waiting", "to": "running", "attempt": 1, "incarnation": 1, "cause": "claim",
             "stop_reason": None, "value": None, "resume_step": 0}  # fmt: skip
    crowd.event("moved", number, stage, actor, moved)
    seq = 0
    for seq, some in enumerate(cut(run.points, 50 if stage == "range" else EPOCHS_A_REPORT), 1):
        crowd.n += 1
        crowd.points += len(some)
        crowd.at_us += len(some) * SECOND // 2
        crowd.put(
            reports, trial_id=crowd.first_id + number, attempt=1, seq=seq, study_id=crowd.study, n=crowd.n,
            trial_number=number, stage=stage, at_us=crowd.at_us, points=list(some),
            digest=hashlib.sha256(db.dumps(list(some)).encode()).hexdigest(),
        )  # fmt: skip
    if run.value is not None and run.value < 0.5 and stage == "refine" and len(crowd.sources) < 200:
        _snapshot(crowd, number, stage, run.points[-1]["step"])
    cost = crowd.at_us - began
    crowd.gpu_us += cost
    cause = "verdict" if run.reason == "pruned" else "finish"
    outcome = {"state": run.state, "stop_reason": run.reason}
    crowd.put(
        attempts, trial_id=crowd.first_id + number, attempt=1, incarnation=1, lease_hash=secret,
        worker_id=seeder.worker_id, slot_id=seeder.slot_id, devices=1, claim_id=claim, claimed_us=began,
        resume_step=0, ended_us=crowd.at_us, ending=cause, said=secret, outcome=outcome,
    )  # fmt: skip
    ended = {"from": "running", "to": run.state, "attempt": 1, "incarnation": 1, "cause": cause,
             "stop_reason": run.reason, "value": run.value}  # fmt: skip
    crowd.last_end[stage] = crowd.event("moved", number, stage, actor, ended)
    step = run.points[-1]["step"]
    return {
        "state": run.state, "attempt": 1, "report_seq": seq, "step": step, "furthest": step,
        "value": run.value,
        "stop_reason": run.reason, "last_metrics": run.points[-1]["metrics"],
        "error": ERROR if run.state == "failed" else None, "started_us": began, "ended_us": crowd.at_us,
        "incarnation": 1, "claim_id": claim, "worker_id": seeder.worker_id, "slot_id": seeder.slot_id,
        "boot_id": seeder.boot_id, "failures": int(run.state == "failed"),
    }  # fmt: skip


def _snapshot(crowd: Crowd, number: int, stage: str, step: int) -> None:
    """One that restarts begin from; its bytes are forgotten, its row stays."""
    crowd.sources.append((number, step, crowd.next_snapshot))
    crowd.put(
        snapshots, id=crowd.next_snapshot, trial_id=crowd.first_id + number, attempt=1, step=step,
        sha256=f"{number:064x}", size=1, committed_us=crowd.at_us, forgotten_us=crowd.at_us,
    )  # fmt: skip
    crowd.next_snapshot += 1
    crowd.event("snapshot", number, stage, "worker", {"step": step, "attempt": 1})
    crowd.event("forgotten", number, stage, "retention", {"step": step})


def fill(conn: Connection, crowd: Crowd, stage: str, count: int, waits: int = 0) -> None:
    """Add a stage's trials, and bring the counters of study and stage to what they then are."""
    stage_id = conn.scalar(
        select(stages.c.id).where(stages.c.study_id == crowd.study, stages.c.name == stage)
    )
    assert stage_id is not None
    crowd.n = conn.scalar(select(studies.c.event_n).where(studies.c.id == crowd.study)) or 0
    for some in cut(range(count), AT_ONCE):
        for ordinal in some:
            add_trial(crowd, stage_id, stage, ordinal, waits=ordinal >= count - waits)
        crowd.flush(conn)
    now = {"trial_n": crowd.made, "finished": crowd.made - crowd.waiting, "waiting": crowd.waiting}
    conn.execute(
        update(studies).where(studies.c.id == crowd.study).values(event_n=crowd.n, gpu_us=crowd.gpu_us, **now)
    )
    if stage in crowd.last_end:
        conn.execute(update(stages).where(stages.c.id == stage_id).values(last_end_n=crowd.last_end[stage]))


def _born_finished(conn: Connection) -> None:
    """Lets rows of trials that have ended come in; `guards.install` forbids it again."""
    if conn.dialect.name == "sqlite":
        conn.exec_driver_sql("DROP TRIGGER trials_birth")
    else:
        conn.exec_driver_sql("DROP TRIGGER trials_guard ON trials")


def end(crowd: Crowd, stage: str) -> None:
    """End a stage with the handler's own command: the next begins."""
    best = sorted(crowd.best.get(stage, []))[:10]
    why = (
        f"{SPEC['task']}: the ten best of stage {stage} are between {best[0][0]} and {best[-1][0]}"
        if best
        else ""
    )
    ranking = [{"trial": number, "value": value} for value, number in best]
    result = {
        "ranking": ranking,
        "chosen": {},
        "numbers": {},
        "failed": False,
        "why": why or "Read from sweeps.",
    }
    crowd.seeder.now_us = crowd.at_us
    assert crowd.seeder.do(commands.EndStage(crowd.study, stage, result, crowd.n))


def seed(engine: Engine, home: Path, count: int = TRIALS, say: Callable[[str], None] = lambda _: None) -> int:
    """Fill a migrated database. Returns the study's id.

    Args:
        count: trials in all, range tests and those that wait among them; at least 100.
    """
    blobs = BlobStore(home / "blobs")
    blobs.prepare()
    at_us = int(time.time()) * SECOND - 14 * 86_400 * SECOND
    seeder = Seeder(engine, blobs, now_us=at_us)
    token = seeder.do(commands.CreateToken(None, "seed", "operator", "5eed" * 4, b"0" * 32, None, "seed"))
    study = seeder.create(**SPEC)
    seeder.register(token)
    with engine.connect() as conn:
        first = (conn.scalar(select(func.max(trials.c.id))) or 0) + 1
        snapshot = (conn.scalar(select(func.max(snapshots.c.id))) or 0) + 1
    crowd = Crowd(study, seeder, first, 0, at_us, next_snapshot=snapshot)
    for stage, size in sizes(count):
        with engine.begin() as conn:
            _born_finished(conn)
            fill(conn, crowd, stage, size, waits=min(20, size) if stage == "restarts" else 0)
            guards.install(conn)
        if stage != "restarts":
            end(crowd, stage)
        say(f"{stage}: {crowd.made} trials, {crowd.points} points")
    with engine.begin() as conn:
        if conn.dialect.name == "postgresql":  # ids were given by hand
            for table in (trials, snapshots):
                name = table.name
                conn.exec_driver_sql(
                    f"SELECT setval(pg_get_serial_sequence('{name}', 'id'), (SELECT max(id) FROM {name}))"
                )
    if engine.dialect.name == "postgresql":  # as its autovacuum does in time; on SQLite nobody does
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
            conn.exec_driver_sql("SET statement_timeout = 0")
            conn.exec_driver_sql("VACUUM ANALYZE")
            conn.invalidate()
    return study


def sizes(count: int) -> Iterator[tuple[str, int]]:
    """Trials of each stage; together `count`.

    >>> sum(size for _, size in sizes(1234))
    1234
    """
    sweeps = min(20, count // 20)
    yield "range", sweeps
    left = count - sweeps
    for stage, share in SHARES.items():
        size = left if stage == "restarts" else round((count - sweeps) * share)
        left -= size
        yield stage, size


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("home", type=Path)
    parser.add_argument("--trials", type=int, default=TRIALS)
    parser.add_argument("--url", help="a database other than HOME/tunesmith.db")
    args = parser.parse_args()
    args.home.mkdir(parents=True, exist_ok=True)
    engine = db.open_engine(args.url or f"sqlite:///{args.home / 'tunesmith.db'}")
    migrate.upgrade(engine)
    began = time.monotonic()
    seed(engine, args.home, args.trials, lambda told: print(told, flush=True))
    print(f"{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
