"""A small reference model of trials and leases: what the tables, statements and batches must add up to.

One study with one stage, in plain Python. `apply` takes the same commands as the service and says in a
word or a tuple what must come back; `word` puts an outcome of the service into the same words.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from factories import TTL
from tunesmith_service import commands as c
from tunesmith_service import errors

SECOND = 1_000_000
ORDER = (
    c.Register, c.Grace, c.Renew, c.Report, c.CommitSnapshot, c.Finish, c.Release, c.Prune, c.CancelTrial,
    c.Sweep, c.Enqueue, c.Propose, c.Claim,
)  # fmt: skip
RETRIES, MOST_RUNNING, MOST_TRIALS = 2, 2, 12


@dataclass
class Attempt:
    lease: tuple[int, bytes]  # attempt, secret's hash
    slot: str
    boot: str
    reports: dict[int, tuple[Any, ...]] = field(default_factory=dict)
    snapshots: dict[int, str] = field(default_factory=dict)
    step: int = 0
    said: c.Command | None = None
    answer: Any = None


@dataclass
class Trial:
    key: str
    ordinal: tuple[bool, int]  # what a person enqueued comes first
    measures: bool = False  # it reports, and has no value
    state: str = "waiting"
    reason: str | None = None
    attempts: list[Attempt] = field(default_factory=list)
    expires: int = 0
    not_before: int = 0
    losses: int = 0
    failures: int = 0
    furthest: int = 0
    curve: list[tuple[int, float]] = field(default_factory=list)
    snapshots: list[int] = field(default_factory=list)

    @property
    def final(self) -> bool:
        return self.state not in ("waiting", "running")

    def end(self, state: str, reason: str | None) -> tuple[str, str | None]:
        self.state, self.reason = state, reason
        return state, reason

    def back_off(self, n: int, now: int) -> None:
        self.not_before = now + min(2**n, 60) * SECOND


class Model:
    """`ids` maps the service's trial ids to numbers, learnt from what claims are granted."""

    def __init__(self) -> None:
        self.trials: list[Trial] = []
        self.ids: dict[int, int] = {}
        self.boots: dict[str, str] = {}
        self.claims: dict[str, tuple[Trial, Attempt, c.Claim]] = {}
        self.hand = 0

    def running(self) -> list[Trial]:
        return [t for t in self.trials if t.state == "running"]

    def batch(self, commands: list[c.Command], now: int) -> list[Any]:
        words: dict[int, Any] = {}
        for i in sorted(range(len(commands)), key=lambda i: (ORDER.index(type(commands[i])), i)):
            words[i] = self.apply(commands[i], now)
        return [words[i] for i in range(len(commands))]

    def apply(self, command: c.Command, now: int) -> Any:
        return getattr(self, type(command).__name__.lower())(command, now)

    # --- workers ----------------------------------------------------------------------------------

    def register(self, command: c.Register, now: int) -> None:
        for slot in command.body.slots:
            self.boots[slot.slot_id] = command.body.boot_id
            for t in self.running():
                if t.attempts[-1].slot == slot.slot_id and t.attempts[-1].boot != command.body.boot_id:
                    self.lose(t, now)

    def claim(self, command: c.Claim, now: int) -> Any:
        if command.claim_id in self.claims:
            trial, attempt, _ = self.claims[command.claim_id]
            current = trial.state == "running" and trial.attempts[-1] is attempt
            return ("granted", self.trials.index(trial), attempt.lease[0]) if current else "claim_stale"
        if command.boot_id != self.boots[command.slot_id]:
            return "conflict"
        busy = any(t.attempts[-1].slot == command.slot_id for t in self.running())
        due = [t for t in self.trials if t.state == "waiting" and t.not_before <= now]
        if busy or len(self.running()) >= MOST_RUNNING or not due:
            return "nothing"
        trial = min(due, key=lambda t: (t.ordinal, self.trials.index(t)))
        attempt = Attempt((len(trial.attempts) + 1, command.secret_hash), command.slot_id, command.boot_id)
        attempt.step = trial.snapshots[-1] if trial.snapshots else 0
        trial.curve = [p for p in trial.curve if p[0] <= attempt.step]
        trial.attempts.append(attempt)
        trial.state, trial.expires = "running", now + TTL
        self.claims[command.claim_id] = (trial, attempt, command)
        return ("granted", self.trials.index(trial), attempt.lease[0])

    # --- leases -----------------------------------------------------------------------------------

    def held(self, lease: c.Lease) -> tuple[Trial, Attempt] | str:
        trial = self.trials[self.ids[lease.trial_id]]
        attempt = trial.attempts[lease.attempt - 1] if lease.attempt <= len(trial.attempts) else None
        if attempt is None or attempt.lease != (lease.attempt, lease.secret_hash):
            return "lease_lost"
        if attempt is not trial.attempts[-1] or trial.state == "waiting":
            return "lease_lost"
        return "already_final" if trial.final else (trial, attempt)

    def renew(self, command: c.Renew, now: int) -> str:
        held = self.held(command.lease)
        if isinstance(held, str):
            return held
        held[0].expires = max(held[0].expires, now + TTL)
        return "kept"

    def report(self, command: c.Report, now: int) -> str:
        held = self.held(command.lease)
        if isinstance(held, str):
            return held
        trial, attempt = held
        points = tuple((step, m["val/loss"]) for step, m in command.points)
        if command.seq != len(attempt.reports) + 1:
            known = attempt.reports.get(command.seq)
            if repr(known) == repr(points):
                trial.expires = max(trial.expires, now + TTL)
                return "duplicate"
            return "seq_gap" if known is None else "seq_reused"
        if points[0][0] <= attempt.step:
            return "unprocessable"
        attempt.reports[command.seq] = points
        attempt.step = points[-1][0]
        trial.curve.extend(points)
        if attempt.step > trial.furthest:
            trial.furthest, trial.losses = attempt.step, 0
        trial.expires = max(trial.expires, now + TTL)
        return "kept"

    def commitsnapshot(self, command: c.CommitSnapshot, now: int) -> str:
        held = self.held(command.lease)
        if isinstance(held, str):
            return held
        trial, attempt = held
        if command.step in attempt.snapshots:
            if attempt.snapshots[command.step] != command.sha256:
                return "snapshot_reused"
            trial.expires = max(trial.expires, now + TTL)
            return "duplicate"
        if command.step > max(trial.snapshots, default=0):
            trial.losses = 0
        attempt.snapshots[command.step] = command.sha256
        trial.snapshots.append(command.step)
        trial.furthest = max(trial.furthest, attempt.step)
        trial.expires = max(trial.expires, now + TTL)
        return "kept"

    def finish(self, command: c.Finish, now: int) -> Any:
        return self.ending(command, lambda trial: self.finished(trial, command, now))

    def finished(self, trial: Trial, command: c.Finish, now: int) -> tuple[str, str | None]:
        if command.state == "complete" and trial.measures:
            return trial.end("complete", command.stop_reason)
        if command.state == "complete":
            if not trial.curve:
                return trial.end("failed", "error")
            diverged = trial.curve[-1][1] != trial.curve[-1][1]
            return trial.end("pruned", "diverged") if diverged else trial.end("complete", command.stop_reason)
        if command.state == "pruned":
            return trial.end("pruned", command.stop_reason)
        trial.failures += 1
        if not command.retryable or trial.failures > RETRIES:
            return trial.end("failed", "error")
        trial.back_off(trial.failures, now)
        return trial.end("waiting", None)

    def release(self, command: c.Release, now: int) -> Any:
        def back(trial: Trial) -> tuple[str, str | None]:
            trial.not_before = 0
            return trial.end("waiting", None)

        return self.ending(command, back)

    def ending(self, command: Any, end: Any) -> Any:
        """First wins; said again, it is answered again."""
        trial = self.trials[self.ids[command.lease.trial_id]]
        held = self.held(command.lease)
        if isinstance(held, str):
            attempt = trial.attempts[command.lease.attempt - 1]
            ours = attempt.lease == (command.lease.attempt, command.lease.secret_hash)
            return attempt.answer if ours and attempt.said == command else held
        held[1].said, held[1].answer = command, end(trial)
        return held[1].answer

    # --- everybody else ---------------------------------------------------------------------------

    def lose(self, trial: Trial, now: int) -> None:
        trial.losses += 1
        if trial.losses > 5:
            trial.end("failed", "error")
        else:
            trial.back_off(trial.losses, now)
            trial.end("waiting", None)

    def sweep(self, command: c.Sweep, now: int) -> int:
        out = [t for t in self.running() if t.expires < now]
        for trial in out:
            self.lose(trial, now)
        return len(out)

    def grace(self, command: c.Grace, now: int) -> int:
        for trial in self.running():
            trial.expires += command.outage_us
        return len(self.running())

    def propose(self, command: c.Propose, now: int) -> int | None:
        if any(t.key == command.key for t in self.trials) or len(self.trials) >= MOST_TRIALS:
            return None
        self.trials.append(Trial(command.key, (True, command.ordinal), command.work.get("kind") is not None))
        return len(self.trials) - 1

    def enqueue(self, command: c.Enqueue, now: int) -> Any:
        if len(self.trials) + len(command.params) > MOST_TRIALS:
            return "conflict"
        first = len(self.trials)
        for _ in command.params:
            self.trials.append(Trial(f"hand:{self.hand}", (False, self.hand)))
            self.hand += 1
        return list(range(first, len(self.trials)))

    def prune(self, command: c.Prune, now: int) -> bool:
        trial = self.trials[command.trial]
        if trial.state != "running":
            return False
        trial.end("pruned", "pruned")
        return True

    def canceltrial(self, command: c.CancelTrial, now: int) -> tuple[str, str | None]:
        trial = self.trials[command.trial]
        return (trial.state, trial.reason) if trial.final else trial.end("cancelled", "cancelled")


def word(model: Model, outcome: Any) -> Any:
    """An outcome of the service in the model's words."""
    match outcome:
        case errors.TunesmithError():
            said: Any = outcome.type
        case c.Kept():
            said = "duplicate" if outcome.duplicate else "kept"
        case c.Ended():
            said = outcome.state, outcome.stop_reason
        case c.Nothing():
            said = "nothing"
        case c.Swept():
            said = len(outcome.expired)
        case c.Granted():
            model.ids[outcome.trial_id] = outcome.work["number"]
            said = "granted", outcome.work["number"], outcome.attempt
        case _:
            said = outcome
    return said
