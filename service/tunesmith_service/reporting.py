"""What the holder of a lease reports: points of its trial's curve, and that it has read the test set."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy import BigInteger, Row, Select, and_, select
from sqlalchemy.dialects import postgresql, sqlite

from tunesmith_service.bulk import Change
from tunesmith_service.commands import Kept, Report
from tunesmith_service.db import batch, dumps, rows
from tunesmith_service.errors import Refused, SeqGap, SeqReused, Unprocessable
from tunesmith_service.fence import Held, holder, standings, trials_of
from tunesmith_service.tables import reports, studies, test_reads, trials
from tunesmith_service.tx import Counts, Happened, Tx, count, record
from tunesmith_service.wire import show_number


class _Curve:
    """A trial's place in its curve while a batch's reports are laid onto it."""

    def __init__(self, trial: Row[Any]) -> None:
        self.trial = trial
        self.seq: int = trial.report_seq
        self.step: int = trial.step
        self.furthest: int = trial.furthest
        self.last_metrics: Mapping[str, Any] | None = trial.last_metrics
        self.may_read_test = bool(trial.may_read_test)
        self.test_read: int | None = trial.test_read
        self.reads_test = False  # for the first time
        self.new: list[tuple[int, str, list[dict[str, Any]]]] = []
        self.heard = False  # a report came that was not refused: the lease is renewed

    def add(self, tx: Tx, c: Report, known: Mapping[int, str]) -> Kept | Refused:
        points: list[dict[str, Any]] = [
            {"step": s, "metrics": {k: show_number(v) for k, v in m.items()}} for s, m in c.points
        ]
        digest = hashlib.sha256(dumps(points).encode()).hexdigest()
        if c.seq <= self.seq:
            stored = known.get(c.seq) or {seq: d for seq, d, _ in self.new}[c.seq]
            told = f"Report {c.seq} of trial {self.trial.number} was already sent with other points."
            if stored != digest:
                return SeqReused(told)
            self.heard = True
            return Kept(duplicate=True)
        if c.seq > self.seq + 1:
            told = f"Report {c.seq} came before report {self.seq + 1}; send again from there."
            return SeqGap(told, outcome={"expected_seq": self.seq + 1})
        if refused := self._unfit(c) or tx.bounds.refuse_report(tx, self.trial, self.seq, c):
            return refused
        self.heard = True
        self.seq = c.seq
        self.step = points[-1]["step"]
        self.last_metrics = points[-1]["metrics"]
        self.reads_test |= self.test_read is None and any(_of_test(m) for _, m in c.points)
        self.new.append((c.seq, digest, points))
        return Kept()

    def _unfit(self, c: Report) -> Refused | None:
        before = self.step
        for step, metrics in c.points:
            if step <= before:
                return Unprocessable(
                    f"Points must come in rising order of step: step {step} of report {c.seq} "
                    f"follows step {before}."
                )
            if not self.may_read_test and (name := _of_test(metrics)):
                return Unprocessable(
                    f"Metric {name}: only the `final` stage may read the test set, once and last of all; "
                    "report val/ metrics here."
                )
            before = step
        return None

    def change(self, expires_us: int) -> Change:
        progress = self.step > self.furthest
        becomes = {
            "report_seq": self.seq,
            "step": self.step,
            "furthest": max(self.step, self.furthest),
            "losses": 0 if progress else self.trial.losses,
            "last_metrics": self.last_metrics,
            "test_read": self.test_read,
            "lease_expires_us": max(self.trial.lease_expires_us, expires_us),
        }
        return Change(holder(self.trial), becomes)


def apply_report(tx: Tx, commands: Sequence[Report], now_us: int) -> list[Kept | Refused]:
    """A report is one row and one event number. Several of one trial are laid on in order of seq."""
    where = standings(tx, list(dict.fromkeys(c.lease for c in commands)), _rows)
    curves = {lease: _Curve(s.trial) for lease, s in where.items() if isinstance(s, Held)}
    known = _digests(tx, [c for c in commands if c.lease in curves and c.seq <= curves[c.lease].seq])
    outcomes: dict[int, Kept | Refused] = {}
    for i, c in sorted(enumerate(commands), key=lambda each: each[1].seq):
        standing = where[c.lease]
        if isinstance(standing, Held):
            outcomes[i] = curves[c.lease].add(tx, c, known.get(standing.trial.id, {}))
        else:
            outcomes[i] = standing.refusal
    grown = [curve for curve in curves.values() if curve.heard]
    _count_test_reads(tx, [curve for curve in grown if curve.reads_test], now_us)
    tx.update(trials, [curve.change(now_us + tx.ttl_us) for curve in grown])
    _insert_reports(tx, grown, now_us)
    return [outcomes[i] for i in range(len(commands))]


@cache
def _rows(dialect: str) -> Select[Any]:
    """Trials with their places in their curves."""
    columns = ("report_seq", "step", "furthest", "last_metrics", "test_read")
    may = trials.c.work["read_test"].as_boolean().label("may_read_test")
    return trials_of(dialect).add_columns(*(trials.c[name] for name in columns), may)


def _digests(tx: Tx, repeated: Sequence[Report]) -> dict[int, dict[int, str]]:
    """trial id → seq → digest of the reports that stand already."""
    if not repeated:
        return {}
    b = batch(tx.dialect, trial_id=BigInteger, attempt=BigInteger, seq=BigInteger)
    same = and_(
        reports.c.trial_id == b.c.trial_id, reports.c.attempt == b.c.attempt, reports.c.seq == b.c.seq
    )
    wanted = select(reports.c.trial_id, reports.c.seq, reports.c.digest).join(b, same)
    asked = [{"trial_id": c.lease.trial_id, "attempt": c.lease.attempt, "seq": c.seq} for c in repeated]
    found: dict[int, dict[int, str]] = {}
    for row in tx.execute(wanted, {"batch": rows(asked)}):
        found.setdefault(row.trial_id, {})[row.seq] = row.digest
    return found


def _insert_reports(tx: Tx, curves: Sequence[_Curve], now_us: int) -> None:
    counts: dict[int, Counts] = {}
    for curve in curves:
        counts.setdefault(curve.trial.study_id, Counts()).events += len(curve.new)
    following = count(tx, {study: c for study, c in counts.items() if c.events})
    new = []
    for curve in curves:
        for seq, digest, points in curve.new:
            n = following[curve.trial.study_id]
            following[curve.trial.study_id] += 1
            report = {"seq": seq, "digest": digest, "points": points, "n": n, "at_us": now_us}
            new.append(_of_trial(curve.trial) | report)
    tx.insert(reports, new)


def _of_trial(trial: Row[Any]) -> dict[str, Any]:
    return {
        "trial_id": trial.id,
        "attempt": trial.attempt,
        "study_id": trial.study_id,
        "trial_number": trial.number,
        "stage": trial.stage,
    }


# --- the test set ---------------------------------------------------------------------------------


def _of_test(metrics: Iterable[str]) -> str | None:
    return next((name for name in metrics if name.startswith("test/")), None)


def _count_test_reads(tx: Tx, curves: Sequence[_Curve], now_us: int) -> None:
    """Give each of these trials its place among those of its project that have read its task's test split.
    The count is a row of its own, so two servers that hear of a first read at once count one after the
    other, whichever studies they hold."""
    if not curves:
        return
    b = batch(tx.dialect, id=BigInteger)
    asked = {"batch": rows({"id": i} for i in sorted({curve.trial.study_id for curve in curves}))}
    wanted = select(studies.c.id, studies.c.project_id, studies.c.task)
    splits = {
        row.id: (row.project_id, row.task)
        for row in tx.execute(wanted.where(studies.c.id.in_(select(b.c.id))), asked)
    }
    ordered = sorted(curves, key=lambda curve: (splits[curve.trial.study_id], curve.trial.id))
    make = sqlite.insert if tx.conn.dialect.name == "sqlite" else postgresql.insert
    for curve in ordered:
        project_id, task = splits[curve.trial.study_id]
        one_more = (
            make(test_reads)
            .values(project_id=project_id, task=task, reads=1)
            .on_conflict_do_update(
                index_elements=["project_id", "task"], set_={"reads": test_reads.c.reads + 1}
            )
            .returning(test_reads.c.reads)
        )
        curve.test_read = tx.execute(one_more).scalar_one()
    record(tx, [_test_read(curve) for curve in ordered], now_us)


def _test_read(curve: _Curve) -> Happened:
    return Happened(
        study_id=curve.trial.study_id,
        kind="test_read",
        actor=f"worker {curve.trial.worker_id}",
        data={"nth": curve.test_read},
        trial_id=curve.trial.id,
        trial_number=curve.trial.number,
        stage=curve.trial.stage,
    )
