"""A small reference model of the whole protocol: what the tables, statements and batches must add up to.

One study with one stage, in plain Python. `apply` takes the same commands as the service and says in a
word or a tuple what must come back; `word` puts an outcome of the service into the same words.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from factories import TTL
from tunesmith_service import commands as c
from tunesmith_service import errors, wishes

SECOND = 1_000_000
ORDER = (
    c.DrainWorker, c.Register, c.Grace, c.Renew, c.Report, c.CommitSnapshot, c.AppendLog, c.CommitArtifact,
    c.Finish, c.Release, c.Prune, c.CancelTrial, wishes.PruneNow, c.Sweep, c.Enqueue, wishes.Retry, c.Propose,
    c.Redraw, c.MoveStudy, c.Claim,
)  # fmt: skip
RETRIES, MOST_RUNNING, MOST_TRIALS = 2, 2, 12


@dataclass
class Attempt:
    lease: tuple[int, bytes]  # attempt, secret's hash
    slot: str
    boot: str
    incarnation: int = 1
    reports: dict[int, tuple[Any, ...]] = field(default_factory=dict)
    snapshots: dict[int, str] = field(default_factory=dict)
    logs: dict[int, str] = field(default_factory=dict)
    resumed: int = 0  # the step that it went on from
    step: int = 0
    said: c.Command | None = None
    answer: Any = None
    claimed: int = 0


@dataclass
class Machine:
    """What is known of a worker with one slot: trials that it broke early, and until when it gets none."""

    faults: list[tuple[int, Trial]] = field(default_factory=list)
    sound: int = 0  # when a trial came to another end by a finish
    aside_until: int = 0
    times: int = 0


@dataclass
class Trial:
    key: str
    ordinal: tuple[bool, int]  # what a person enqueued comes first
    measures: bool = False  # it reports, and has no value
    draft: bool = False
    planned_at: int = 0
    mark: int = 0  # how many trials had ended when it was planned
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

    def back_off(self, n: int, now: int) -> None:
        self.not_before = now + min(2**n, 60) * SECOND


class Model:
    """`ids` maps the service's trial ids to numbers, learnt from what claims are granted.

    Attributes:
        plan_at: newest event before the commands that are applied: what a planner knows at best.
        ends: how many times a trial has ended; a draft that knows fewer is stale.
    """

    def __init__(self) -> None:
        self.state = "active"
        self.incarnation = 1
        self.plan_at = self.ends = self._known_ends = 0
        self.draining: set[str] = set()
        self.slot_of: dict[str, str] = {}  # by worker
        self.trials: list[Trial] = []
        self.ids: dict[int, int] = {}
        self.boots: dict[str, str] = {}
        self.starts: dict[str, int] = {}  # by worker
        self.machines: defaultdict[str, Machine] = defaultdict(Machine)  # by slot
        self.claims: dict[str, tuple[Trial, Attempt, c.Claim]] = {}
        self.hand = 0

    def running(self) -> list[Trial]:
        return [t for t in self.trials if t.state == "running"]

    def end(self, trial: Trial, state: str, reason: str | None) -> tuple[str, str | None]:
        trial.state, trial.reason = state, reason
        self.ends += trial.final
        return state, reason

    def batch(self, commands: list[c.Command], now: int) -> list[Any]:
        words: dict[int, Any] = {}
        self._known_ends = self.ends
        for i in sorted(range(len(commands)), key=lambda i: (ORDER.index(type(commands[i])), i)):
            words[i] = self.apply(commands[i], now)
        return [words[i] for i in range(len(commands))]

    def apply(self, command: c.Command, now: int) -> Any:
        return getattr(self, type(command).__name__.lower())(command, now)

    # --- workers ----------------------------------------------------------------------------------

    def register(self, command: c.Register, now: int) -> str | None:
        if command.body.starts < self.starts[command.body.worker_id]:
            return "superseded"
        self.starts[command.body.worker_id] = command.body.starts
        for slot in command.body.slots:
            self.boots[slot.slot_id] = command.body.boot_id
            for t in self.running():
                if t.attempts[-1].slot == slot.slot_id and t.attempts[-1].boot != command.body.boot_id:
                    self.lose(t, now)
        return None

    def claim(self, command: c.Claim, now: int) -> Any:
        if command.claim_id in self.claims:
            trial, attempt, _ = self.claims[command.claim_id]
            current = trial.state == "running" and trial.attempts[-1] is attempt
            return self.granted(trial) if current else "claim_stale"
        if command.boot_id != self.boots[command.slot_id]:
            return "conflict"
        busy = any(t.attempts[-1].slot == command.slot_id for t in self.running())
        due = [
            t for t in self.trials if t.state == "waiting" and t.not_before <= now and self.state == "active"
        ]
        if not command.accept_stale and all(self.stale(t) for t in due):
            due = []
        if self.machines[command.slot_id].aside_until > now:
            return "nothing"
        if busy or command.worker_id in self.draining or len(self.running()) >= MOST_RUNNING or not due:
            return "nothing"
        trial = min(due, key=lambda t: (self.stale(t), t.ordinal, self.trials.index(t)))
        attempt = Attempt((len(trial.attempts) + 1, command.secret_hash), command.slot_id, command.boot_id)
        attempt.claimed = now
        attempt.incarnation, trial.draft = self.incarnation, False
        attempt.step = attempt.resumed = trial.snapshots[-1] if trial.snapshots else 0
        trial.curve = [p for p in trial.curve if p[0] <= attempt.step]
        trial.attempts.append(attempt)
        trial.state, trial.expires = "running", now + TTL
        self.claims[command.claim_id] = (trial, attempt, command)
        return self.granted(trial)

    def granted(self, trial: Trial) -> tuple[Any, ...]:
        newest = trial.attempts[-1]
        return "granted", self.trials.index(trial), newest.incarnation, newest.lease[0], newest.resumed

    def stale(self, trial: Trial) -> bool:
        return trial.draft and trial.mark < self.ends

    def drainworker(self, command: c.DrainWorker, now: int) -> None:
        (self.draining.add if command.draining else self.draining.discard)(command.worker_id)
        machine = self.machines[self.slot_of[command.worker_id]]
        if not command.draining and machine.aside_until > now:
            machine.aside_until, machine.times = now, 0

    # --- leases -----------------------------------------------------------------------------------

    def held(self, lease: c.Lease) -> tuple[Trial, Attempt] | str:
        trial = self.trials[self.ids[lease.trial_id]]
        attempt = trial.attempts[lease.attempt - 1] if lease.attempt <= len(trial.attempts) else None
        if attempt is None or attempt.lease != (lease.attempt, lease.secret_hash):
            return "lease_lost"
        if attempt.incarnation != lease.incarnation:
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

    def appendlog(self, command: c.AppendLog, now: int) -> str:
        held = self.held(command.lease)
        if isinstance(held, str):
            return held
        trial, attempt = held
        known = attempt.logs.get(command.seq)
        if known not in (None, command.sha256):
            return "seq_reused"
        attempt.logs[command.seq] = command.sha256
        trial.expires = max(trial.expires, now + TTL)
        return "duplicate" if known else "kept"

    def commitartifact(self, command: c.CommitArtifact, now: int) -> str:
        held = self.held(command.lease)
        if isinstance(held, str):
            return held
        held[0].expires = max(held[0].expires, now + TTL)
        return "kept"

    def finish(self, command: c.Finish, now: int) -> Any:
        return self.ending(command, lambda trial: self.finished(trial, command, now))

    def finished(self, trial: Trial, command: c.Finish, now: int) -> tuple[str, str | None]:
        if command.state == "failed":
            return self.broke(trial, command, now)
        self.machines[trial.attempts[-1].slot].sound = now
        if command.state == "pruned":
            return self.end(trial, "pruned", command.stop_reason)
        if trial.measures:
            return self.end(trial, "complete", command.stop_reason)
        if not trial.curve:
            return self.end(trial, "failed", "error")
        diverged = trial.curve[-1][1] != trial.curve[-1][1]
        return (
            self.end(trial, "pruned", "diverged")
            if diverged
            else self.end(trial, "complete", command.stop_reason)
        )

    def broke(self, trial: Trial, command: c.Finish, now: int) -> tuple[str, str | None]:
        if not (command.retryable and self.is_early(trial, now)):
            self.machines[trial.attempts[-1].slot].sound = now
        elif self.breaks_too_many(trial, now):
            trial.not_before = 0
            return self.end(trial, "waiting", None)
        trial.failures += 1
        if not command.retryable or trial.failures > RETRIES:
            return self.end(trial, "failed", "error")
        trial.back_off(trial.failures, now)
        return self.end(trial, "waiting", None)

    def is_early(self, trial: Trial, now: int) -> bool:
        return now - trial.attempts[-1].claimed <= 60 * SECOND

    def breaks_too_many(self, trial: Trial, now: int) -> bool:
        """Whether this early fault has the worker set aside; earlier ones then give their retry back."""
        machine = self.machines[trial.attempts[-1].slot]
        since = max(now - 600 * SECOND, machine.aside_until)
        machine.faults.append((now, trial))
        broken = {id(t): t for at, t in machine.faults if at >= since}
        if len(broken) < 3:
            return False
        for other in broken.values():
            if other is not trial and not other.final:
                other.failures = max(other.failures - 1, 0)
        worked = machine.sound >= machine.aside_until
        machine.times = 1 if worked or not machine.aside_until else machine.times + 1
        machine.aside_until = now + 600 * SECOND * 2 ** (machine.times - 1)
        return True

    def release(self, command: c.Release, now: int) -> Any:
        def back(trial: Trial) -> tuple[str, str | None]:
            trial.not_before = 0
            return self.end(trial, "waiting", None)

        return self.ending(command, back)

    def ending(self, command: Any, end: Any) -> Any:
        """First wins; said again, it is answered again."""
        trial = self.trials[self.ids[command.lease.trial_id]]
        held = self.held(command.lease)
        if isinstance(held, str):
            attempt = trial.attempts[command.lease.attempt - 1]
            ours = (attempt.incarnation, *attempt.lease) == (
                command.lease.incarnation, command.lease.attempt, command.lease.secret_hash
            )  # fmt: skip
            return attempt.answer if ours and attempt.said == command else held
        held[1].said, held[1].answer = command, end(trial)
        return held[1].answer

    # --- everybody else ---------------------------------------------------------------------------

    def lose(self, trial: Trial, now: int) -> None:
        trial.losses += 1
        if trial.losses > 5:
            self.end(trial, "failed", "error")
        else:
            trial.back_off(trial.losses, now)
            self.end(trial, "waiting", None)

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
        if self.state == "stopped" or any(t.key == command.key for t in self.trials):
            return None
        if len(self.trials) >= MOST_TRIALS:
            if command.planned_at >= self.plan_at and all(t.final for t in self.trials):
                self.state = "stopped"  # it wants more than it may have
            return None
        measures = command.work.get("kind") is not None
        self.trials.append(Trial(command.key, (True, command.ordinal), measures, command.draft))
        self.planned(self.trials[-1], command.planned_at)
        return len(self.trials) - 1

    def planned(self, trial: Trial, at: int) -> None:
        """Whoever plans at `plan_at` knows every end before this batch; at an earlier event, none."""
        trial.planned_at, trial.mark = at, self._known_ends if at >= self.plan_at else 0

    def redraw(self, command: c.Redraw, now: int) -> bool:
        trial = self.trials[command.trial]
        if trial.state != "waiting" or not trial.draft or command.planned_at <= trial.planned_at:
            return False
        self.planned(trial, command.planned_at)
        return True

    def enqueue(self, command: c.Enqueue, now: int) -> Any:
        return self.by_hand([f"hand:{self.hand + i}" for i in range(len(command.params))])

    def by_hand(self, keys: list[str]) -> Any:
        first = len(self.trials)
        if self.state == "stopped" or first + len(keys) > MOST_TRIALS:
            return "conflict"
        self.hand += sum(key.startswith("hand:") and "/" not in key for key in keys)
        self.trials += [Trial(key, (False, first + i)) for i, key in enumerate(keys)]
        return list(range(first, len(self.trials)))

    def retry(self, command: wishes.Retry, now: int) -> Any:
        (number,) = command.trials or ()
        trial = self.trials[number]
        root = trial.key.partition("/retry:")[0]
        tried = [t for t in self.trials if t.key.startswith(f"{root}/retry:")]
        again = trial.state in ("failed", "cancelled") and not trial.measures
        if not again or not all(t.final for t in tried):
            return "conflict"
        return self.by_hand([f"{root}/retry:{len(tried) + 1}"])

    def movestudy(self, command: c.MoveStudy, now: int) -> str:
        if self.state == "stopped" != command.state:
            return "conflict"
        if command.state == "stopped" != self.state:
            for trial in self.trials:
                if not trial.final:
                    self.end(trial, "cancelled", "cancelled")
        self.state = command.state
        return self.state

    def prune(self, command: c.Prune, now: int) -> bool:
        trial = self.trials[command.trial]
        if trial.state != "running":
            return False
        self.end(trial, "pruned", "pruned")
        return True

    def prunenow(self, command: wishes.PruneNow, now: int) -> Any:
        trial = self.trials[command.trial]
        if trial.final:
            return trial.state, trial.reason
        if trial.state != "running" or trial.measures:
            return "conflict"
        return self.end(trial, "pruned", "pruned")

    def canceltrial(self, command: c.CancelTrial, now: int) -> tuple[str, str | None]:
        trial = self.trials[command.trial]
        return (trial.state, trial.reason) if trial.final else self.end(trial, "cancelled", "cancelled")


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
            resumed = (outcome.work["resume"] or {}).get("step", 0)
            said = "granted", outcome.work["number"], outcome.incarnation, outcome.attempt, resumed
        case _:
            said = outcome
    return said
