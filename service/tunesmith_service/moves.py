"""Every end of an attempt and of a trial: one function changes the states of many trials at once.

`change` updates trials, attempts, counters and the log together, each by a guarded statement. Which
move a fault or a wish leads to is decided by `leases`, `sweeps`, `plans` and `people`; the move to
`running` is a claim's own (`claims`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Row, Select, and_, select

from tunesmith_service.bulk import Change
from tunesmith_service.clock import SECOND
from tunesmith_service.tables import attempts, stages, trials
from tunesmith_service.tx import Counts, Happened, Tx, add_count, record

FINAL = ("complete", "pruned", "failed", "cancelled")
MAX_BACKOFF_US = 60 * SECOND
MAX_LOSSES = 5
MAX_PREEMPTIONS = 1000


@dataclass(frozen=True, slots=True)
class Move:
    """A trial's change of state away from waiting or running.

    Attributes:
        trial: its row, as `trial_rows` reads it, under its study's lock.
        to: the new state; `waiting` hands it back.
        cause: why, for people and filters: finish, release, expired, reboot, verdict, cancelled, …
        actor: who: `worker <id>`, `planner`, `sweeper`, or a person's token.
        counts: columns among losses, failures, preemptions and not_before_us that change with it.
        said: digest of the finish or release that asks for it, so that a repeated one is known.
        extra: more for the event's data, such as the verdict's `planned_at`.
        early_fault: a fault of the machine ended the attempt soon after its claim; see `faulty`.
    """

    trial: Row[Any]
    to: str
    cause: str
    actor: str
    stop_reason: str | None = None
    value: float | None = None
    error: Mapping[str, Any] | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    said: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    early_fault: bool = False

    @property
    def outcome(self) -> dict[str, str | None]:
        return {"state": self.to, "stop_reason": self.stop_reason}


def trial_rows() -> Select[Any]:
    """Trials with their stage's name and their newest attempt's cost; what `Move` needs."""
    return (
        select(
            *(trials.c[name] for name in _NEEDED),
            stages.c.name.label("stage"),
            attempts.c.claimed_us,
            attempts.c.devices,
        )
        .join(stages, stages.c.id == trials.c.stage_id)
        .outerjoin(attempts, and_(attempts.c.trial_id == trials.c.id, attempts.c.attempt == trials.c.attempt))
        .order_by(trials.c.study_id, trials.c.number)
    )


_NEEDED = (
    "id", "study_id", "stage_id", "number", "state", "stop_reason", "attempt", "incarnation", "lease_hash",
    "lease_expires_us", "worker_id", "not_before_us", "losses", "failures", "preemptions", "kind",
)  # fmt: skip


def backoff_us(n: int) -> int:
    """How long a trial waits after its n-th loss or failure in a row: 2^n s, at most 60 s."""
    return min(SECOND << min(n, 6), MAX_BACKOFF_US)


def lost(trial: Row[Any], cause: str, actor: str, now_us: int) -> Move:
    """T9: hand back a trial whose worker is gone; T12 after more than MAX_LOSSES without progress."""
    losses = trial.losses + 1
    if losses > MAX_LOSSES:
        error = {
            "kind": "worker_lost",
            "message": f"Its worker was lost {losses} times without progress. Look at the workers' own logs "
            "for what kills them, such as the machine's memory, then try the trial again.",
            "traceback": "",
        }
        return Move(
            trial, "failed", cause, actor, stop_reason="error", error=error, counts={"losses": losses}
        )
    counts = {"losses": losses, "not_before_us": now_us + backoff_us(losses)}
    return Move(trial, "waiting", cause, actor, counts=counts)


def cancelled(trial: Row[Any], cause: str, actor: str) -> Move:
    """T13, T14."""
    return Move(trial, "cancelled", cause, actor, stop_reason="cancelled")


def change(tx: Tx, moves: Sequence[Move], now_us: int) -> None:
    """Carry out moves of different trials, in this order."""
    if not moves:
        return
    tx.update(trials, [_of_trial(m, now_us) for m in moves])
    tx.update(attempts, [_of_attempt(m, now_us) for m in moves if m.trial.state == "running"])
    counts: defaultdict[int, Counts] = defaultdict(Counts)
    for m in moves:
        add_count(counts, m.trial.study_id, **_counted(m, now_us))
    numbers = record(tx, [_event(m) for m in moves], now_us, counts)
    ended = {m.trial.stage_id: n for m, n in zip(moves, numbers, strict=True) if m.to in FINAL}
    tx.moved.update((m.cause, m.to) for m in moves if m.trial.state == "running")
    tx.update(stages, [Change({"id": stage}, {"last_end_n": n}) for stage, n in ended.items()])


def _of_trial(m: Move, now_us: int) -> Change:
    was = {name: getattr(m.trial, name) for name in ("id", "state", "attempt", "lease_hash")}
    kept = {name: getattr(m.trial, name) for name in ("not_before_us", "losses", "failures", "preemptions")}
    becomes = {
        "lease_hash": None,
        "lease_expires_us": None,
        "state": m.to,
        "stop_reason": m.stop_reason,
        "value": m.value,
        "error": m.error,
        "ended_us": now_us if m.to in FINAL else None,
    }
    return Change(was, {**becomes, **kept, **m.counts})


def _of_attempt(m: Move, now_us: int) -> Change:
    was = {"trial_id": m.trial.id, "attempt": m.trial.attempt, "ended_us": None}
    ends = {"ending": m.cause, "said": m.said, "outcome": m.outcome, "early_fault": m.early_fault}
    return Change(was, {"ended_us": now_us, **ends})


def _counted(m: Move, now_us: int) -> dict[str, int]:
    gone = {m.trial.state: -1}
    come = {"finished" if m.to in FINAL else m.to: 1}
    cost = (now_us - m.trial.claimed_us) * m.trial.devices if m.trial.state == "running" else 0
    return gone | come | {"gpu_us": max(cost, 0)}


def _event(m: Move) -> Happened:
    data = {
        "from": m.trial.state,
        "to": m.to,
        "attempt": m.trial.attempt,
        "incarnation": m.trial.incarnation,
        "cause": m.cause,
        "stop_reason": m.stop_reason,
        "value": m.value,
        **m.extra,
    }
    return Happened(
        study_id=m.trial.study_id,
        kind="moved",
        actor=m.actor,
        cause=m.cause,
        data=data,
        trial_id=m.trial.id,
        trial_number=m.trial.number,
        stage=m.trial.stage,
    )
