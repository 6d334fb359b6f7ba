"""What the holder of a lease may write: renew, report, finish, release.

Every handler asks `fence.standings` first, and its statements carry the fence once more.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import BigInteger, Row, String, and_, bindparam, case, insert, select, update
from tunesmith_studies.curves import objective_value
from tunesmith_studies.study import Objective
from tunesmith_studies.trial import Point

from tunesmith_service import moves, reading
from tunesmith_service.commands import Ended, Finish, Kept, Lease, Release, Renew, Report
from tunesmith_service.db import batch, dumps, rows
from tunesmith_service.errors import AlreadyFinal, Refused, SeqGap, SeqReused, Unprocessable
from tunesmith_service.fence import HOLDS, Held, Over, Standing, holder, standings
from tunesmith_service.moves import Move
from tunesmith_service.tables import reports, studies, trials, workers
from tunesmith_service.tx import Counts, Tx, count
from tunesmith_service.wire import show_number

SEEN_EVERY_US = 5_000_000
"""A worker's `last_seen_us` is written no more often than this."""


# --- renew ----------------------------------------------------------------------------------------


def apply_renew(tx: Tx, commands: Sequence[Renew], now_us: int) -> list[Kept | Refused]:
    """One statement keeps all that are current; only the others are looked up."""
    b = batch(tx.conn, trial_id=BigInteger, incarnation=BigInteger, attempt=BigInteger, lease_hash=String)
    until = now_us + tx.ttl_us
    statement = (
        update(trials)
        .where(
            trials.c.id == b.c.trial_id,
            trials.c.incarnation == b.c.incarnation,
            trials.c.attempt == b.c.attempt,
            trials.c.lease_hash == b.c.lease_hash,
            trials.c.state == "running",
        )
        .values(
            lease_expires_us=case((trials.c.lease_expires_us > until, trials.c.lease_expires_us), else_=until)
        )
        .returning(
            trials.c.id, trials.c.incarnation, trials.c.attempt, trials.c.lease_hash, trials.c.worker_id
        )
    )
    leases = list(dict.fromkeys(c.lease for c in commands))
    kept = tx.execute(statement, {"batch": rows(_fence(x) for x in leases)}).all()
    seen(tx, [row.worker_id for row in kept], now_us)
    held = {(row.id, row.incarnation, row.attempt, row.lease_hash) for row in kept}
    gone = [x for x in leases if tuple(_fence(x).values()) not in held]
    why = standings(tx, gone) if gone else {}
    return [_refusal(why[c.lease]) if c.lease in why else Kept() for c in commands]


def _fence(lease: Lease) -> dict[str, Any]:
    return {
        "trial_id": lease.trial_id,
        "incarnation": lease.incarnation,
        "attempt": lease.attempt,
        "lease_hash": lease.secret_hash.hex(),
    }


def _refusal(standing: Standing) -> Refused:
    assert not isinstance(standing, Held)
    return standing.refusal


def seen(tx: Tx, worker_ids: Sequence[str], now_us: int) -> None:
    """Note that these workers are alive."""
    b = batch(tx.conn, id=String)
    late = workers.c.last_seen_us < now_us - SEEN_EVERY_US
    statement = update(workers).where(workers.c.id.in_(select(b.c.id)), late).values(last_seen_us=now_us)
    tx.execute(statement, {"batch": rows({"id": i} for i in sorted(set(worker_ids)))})


# --- report ---------------------------------------------------------------------------------------


_REPORTED = (
    update(trials)
    .where(*HOLDS)
    .values(
        {
            name: bindparam(name)
            for name in ("report_seq", "step", "furthest", "losses", "last_metrics", "lease_expires_us")
        }
    )
)


class _Curve:
    """A trial's place in its curve while a batch's reports are laid onto it."""

    def __init__(self, trial: Row[Any], place: Row[Any]) -> None:
        self.trial = trial
        self.seq: int = place.report_seq
        self.step: int = place.step
        self.furthest: int = place.furthest
        self.last_metrics: Mapping[str, Any] | None = place.last_metrics
        self.new: list[tuple[int, str, list[dict[str, Any]]]] = []
        self.heard = False  # a report came that was not refused: the lease is renewed

    def add(self, c: Report, known: Mapping[int, str]) -> Kept | Refused:
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
        if refused := self._unfit(c):
            return refused
        self.heard = True
        self.seq = c.seq
        self.step = points[-1]["step"]
        self.last_metrics = points[-1]["metrics"]
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
            for name in metrics:
                if name.startswith("test/"):
                    return Unprocessable(
                        f"Metric {name}: the test set is for a final stage alone; report val/ metrics here."
                    )
            before = step
        return None

    def values(self, expires_us: int) -> dict[str, Any]:
        progress = self.step > self.furthest
        return holder(self.trial) | {
            "report_seq": self.seq,
            "step": self.step,
            "furthest": max(self.step, self.furthest),
            "losses": 0 if progress else self.trial.losses,
            "last_metrics": self.last_metrics,
            "lease_expires_us": max(self.trial.lease_expires_us, expires_us),
        }


def apply_report(tx: Tx, commands: Sequence[Report], now_us: int) -> list[Kept | Refused]:
    """A report is one row and one event number. Several of one trial are laid on in order of seq."""
    where = standings(tx, list(dict.fromkeys(c.lease for c in commands)))
    curves = _curves(tx, where)
    known = _digests(tx, [c for c in commands if c.lease in curves and c.seq <= curves[c.lease].seq])
    outcomes: dict[int, Kept | Refused] = {}
    for i, c in sorted(enumerate(commands), key=lambda each: each[1].seq):
        standing = where[c.lease]
        if isinstance(standing, Held):
            outcomes[i] = curves[c.lease].add(c, known.get(standing.trial.id, {}))
        else:
            outcomes[i] = standing.refusal
    grown = [curve for curve in curves.values() if curve.heard]
    tx.update_each(_REPORTED, [curve.values(now_us + tx.ttl_us) for curve in grown])
    _insert_reports(tx, grown, now_us)
    return [outcomes[i] for i in range(len(commands))]


def _curves(tx: Tx, where: Mapping[Lease, Standing]) -> dict[Lease, _Curve]:
    held = {lease: s.trial for lease, s in where.items() if isinstance(s, Held)}
    columns = ("id", "report_seq", "step", "furthest", "last_metrics")
    b = batch(tx.conn, id=BigInteger)
    wanted = select(*(trials.c[name] for name in columns)).where(trials.c.id.in_(select(b.c.id)))
    places = {row.id: row for row in tx.execute(wanted, {"batch": rows({"id": t.id} for t in held.values())})}
    return {lease: _Curve(trial, places[trial.id]) for lease, trial in held.items()}


def _digests(tx: Tx, repeated: Sequence[Report]) -> dict[int, dict[int, str]]:
    """trial id → seq → digest of the reports that stand already."""
    if not repeated:
        return {}
    b = batch(tx.conn, trial_id=BigInteger, attempt=BigInteger, seq=BigInteger)
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
    if new:
        tx.execute(insert(reports), new)


def _of_trial(trial: Row[Any]) -> dict[str, Any]:
    return {
        "trial_id": trial.id,
        "attempt": trial.attempt,
        "study_id": trial.study_id,
        "trial_number": trial.number,
        "stage": trial.stage,
    }


# --- finish and release ---------------------------------------------------------------------------


def apply_finish(tx: Tx, commands: Sequence[Finish], now_us: int) -> list[Ended | Refused]:
    """First wins; the objective is worked out here, from the points of the current curve."""
    where = standings(tx, list(dict.fromkeys(c.lease for c in commands)))
    held = [s.trial for s in where.values() if isinstance(s, Held)]
    specs = _specs(tx, held)
    complete = {c.lease.trial_id for c in commands if c.state == "complete"}
    curves = reading.curves(tx.conn, [t.id for t in held if t.id in complete])
    ends: dict[Lease, Move] = {}
    outcomes = []
    for c in commands:
        standing = where[c.lease]
        if isinstance(standing, Held) and c.lease not in ends:
            curve = curves.get(standing.trial.id, [])
            ends[c.lease] = _ending(c, standing.trial, curve, specs[standing.trial.study_id], now_us)
        outcomes.append(_answer(c.lease, standing, said(c), ends))
    moves.change(tx, list(ends.values()), now_us)
    return outcomes


def apply_release(tx: Tx, commands: Sequence[Release], now_us: int) -> list[Ended | Refused]:
    """T10: handed back at no cost, to be claimed again at once."""
    where = standings(tx, list(dict.fromkeys(c.lease for c in commands)))
    ends: dict[Lease, Move] = {}
    outcomes = []
    for c in commands:
        standing = where[c.lease]
        if isinstance(standing, Held) and c.lease not in ends:
            ends[c.lease] = _release(c, standing.trial)
        outcomes.append(_answer(c.lease, standing, said(c), ends))
    moves.change(tx, list(ends.values()), now_us)
    return outcomes


def said(c: Finish | Release) -> str:
    """Digest of what a lease's holder said at its end, so that a repeated call is known."""
    words: list[Any] = (
        ["finish", c.state, c.stop_reason, c.error, c.retryable]
        if isinstance(c, Finish)
        else ["release", c.cause]
    )
    return hashlib.sha256(dumps(words).encode()).hexdigest()


def _answer(lease: Lease, standing: Standing, digest: str, ends: Mapping[Lease, Move]) -> Ended | Refused:
    """What the end of a lease is told: its outcome, again if it is said again, else a refusal."""
    if isinstance(standing, Held):
        first = ends[lease]
        if first.said == digest:
            return Ended(**first.outcome)  # type: ignore[arg-type]
        return AlreadyFinal(f"Trial {standing.trial.number} has just ended otherwise.", outcome=first.outcome)
    if isinstance(standing, Over) and standing.said == digest:
        return Ended(**standing.outcome)
    return standing.refusal


def _specs(tx: Tx, held: Sequence[Row[Any]]) -> dict[int, Mapping[str, Any]]:
    b = batch(tx.conn, id=BigInteger)
    wanted = select(studies.c.id, studies.c.spec).where(studies.c.id.in_(select(b.c.id)))
    asked = {"batch": rows({"id": i} for i in sorted({t.study_id for t in held}))}
    return {row.id: row.spec for row in tx.execute(wanted, asked)}


def _actor(trial: Row[Any]) -> str:
    return f"worker {trial.worker_id}"


def _release(c: Release, trial: Row[Any]) -> Move:
    preemptions = trial.preemptions + 1
    counts = {"preemptions": preemptions, "not_before_us": 0}
    if preemptions > moves.MAX_PREEMPTIONS:
        error = _error(
            "preempted", f"It was handed back {preemptions} times; run it where it is left to finish."
        )
        return Move(
            trial, "failed", "release", _actor(trial), "error", error=error, counts=counts, said=said(c)
        )
    return Move(
        trial, "waiting", "release", _actor(trial), counts=counts, said=said(c), extra={"why": c.cause}
    )


def _ending(c: Finish, trial: Row[Any], curve: Sequence[Point], spec: Mapping[str, Any], now_us: int) -> Move:
    """T4, T5b, T11 or T12, as the worker's word and the reports say."""
    if c.state == "complete":
        return _complete(c, trial, curve, Objective.model_validate(spec["objective"]))
    if c.state == "failed":
        return _failed(c, trial, spec.get("retries", 2), now_us)
    return Move(trial, "pruned", "finish", _actor(trial), c.stop_reason, error=c.error, said=said(c))


def _complete(c: Finish, trial: Row[Any], curve: Sequence[Point], objective: Objective) -> Move:
    value = objective_value(curve, objective)
    if value is not None:
        return Move(trial, "complete", "finish", _actor(trial), c.stop_reason, value=value, said=said(c))
    if any(objective.metric in point.metrics for point in curve):
        return Move(trial, "pruned", "finish", _actor(trial), "diverged", said=said(c))
    reported = sorted({name for point in curve for name in point.metrics})
    error = _error(
        "objective_missing",
        f"The study's objective is {objective.metric}, which this trial never reported; it reported "
        f"{', '.join(reported[:20]) or 'nothing'}. Report it, or let the study's objective name another.",
    )
    return Move(trial, "failed", "finish", _actor(trial), "error", error=error, said=said(c))


def _failed(c: Finish, trial: Row[Any], retries: int, now_us: int) -> Move:
    failures = trial.failures + 1
    if c.retryable and failures <= retries:
        counts = {"failures": failures, "not_before_us": now_us + moves.backoff_us(failures)}
        return Move(trial, "waiting", "retry", _actor(trial), error=c.error, counts=counts, said=said(c))
    error = c.error or _error("unknown", "The worker gave no reason; look at the trial's log.")
    counts = {"failures": failures}
    return Move(trial, "failed", "finish", _actor(trial), "error", error=error, counts=counts, said=said(c))


def _error(kind: str, message: str) -> dict[str, Any]:
    return {"kind": kind, "message": message, "traceback": ""}
