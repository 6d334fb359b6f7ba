"""Every write as a frozen value. The Writer gathers what arrives together and commits it together.

A command's handler is `apply(tx, commands, now_us) -> outcomes`, one outcome a command; `batches`
says which module has it. An outcome is a value of this module, or a `Refused` of
`errors`, which `Writer.submit` raises. Handlers never see a clock, a request or a socket. What is `Audited`
leaves a line in the audit log.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tunesmith_service import wire
from tunesmith_service.admission import (
    CreateLoginCode,
    CreateToken,
    EndSession,
    EndSessions,
    NoteRefusal,
    RedeemLoginCode,
    RevokeToken,
    TouchSessions,
    TouchTokens,
    TrimAudit,
)
from tunesmith_service.notices import (
    AddTarget,
    EndNotice,
    QueueNotices,
    QueueTest,
    RemoveTarget,
    TakeNotices,
)
from tunesmith_service.once import Idempotency
from tunesmith_service.origin import Audited
from tunesmith_service.wishes import (
    DeleteStudy,
    ImportTrials,
    PruneNow,
    PutAway,
    Retry,
    TagTrials,
    WriteNote,
)

# --- leases: what workers say ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Lease:
    """The fence that every worker's write carries into its WHERE."""

    trial_id: int
    incarnation: int
    attempt: int
    secret_hash: bytes  # sha256 of the secret; 32 bytes


@dataclass(frozen=True, slots=True)
class Register:
    """A supervisor started. Outcome: None. Running trials of its slots under another boot id are
    handed back at once (T9)."""

    project_id: int
    token_id: int
    body: wire.Register


@dataclass(frozen=True, slots=True)
class Claim:
    """Give a waiting trial to a slot. Outcome: Granted, Nothing, or refused (claim_stale, slot_unknown)."""

    project_id: int
    token_id: int
    claim_id: str
    worker_id: str
    boot_id: str
    slot_id: str
    secret_hash: bytes
    accept_stale: bool = True  # False: leave a draft that a finish has made stale to the planner
    study: str | None = None  # the name of the only one that will do, whatever its task


@dataclass(frozen=True, slots=True)
class Granted:
    """A lease. `work` is everything a wire.WorkOrder needs, as JSON."""

    trial_id: int
    incarnation: int
    attempt: int
    work: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Nothing:
    """No trial for this slot now.

    Attributes:
        stale: a draft waits, but it is stale and `accept_stale` was False.
        retry_at_us: when the next trial's backoff ends, or None.
        draining: the worker shall take no new trial.
        ended: the study that was named has ended.
        fresh_wait_us: how long the study with the stale draft lets a claim wait for a fresh one.
    """

    stale: bool = False
    retry_at_us: int | None = None
    draining: bool = False
    ended: bool = False
    fresh_wait_us: int = 0


@dataclass(frozen=True, slots=True)
class Renew:
    """Keep a lease alive. Outcome: Kept, or refused (lease_lost, already_final)."""

    lease: Lease


@dataclass(frozen=True, slots=True)
class Kept:
    duplicate: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """Add points to a trial's curve. Outcome: Kept, or refused (lease_lost, already_final, seq_gap
    with expected_seq, seq_reused)."""

    lease: Lease
    seq: int
    points: tuple[tuple[int, Mapping[str, float]], ...]


@dataclass(frozen=True, slots=True)
class CommitSnapshot:
    """Publish stored bytes as this attempt's snapshot. Outcome: Kept, or refused."""

    lease: Lease
    step: int
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class AppendLog:
    """Outcome: Kept, or refused."""

    lease: Lease
    seq: int
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class CommitArtifact:
    """Outcome: Kept, or refused. The same name again replaces what it showed."""

    lease: Lease
    name: str
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Finish:
    """End a trial. First wins. Outcome: Ended, or refused (lease_lost, already_final with outcome, or as
    `report` is).

    `report` is laid on before, in the same transaction, `claim` is looked at after; see `brought`.
    """

    lease: Lease
    state: str
    stop_reason: str
    error: Mapping[str, Any] | None = None
    retryable: bool = False
    report: Report | None = None
    claim: Claim | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """Where a trial stands after a finish: final, or waiting again after a retryable failure.

    `claim` is the outcome of the finish's claim; None if there was none, or it was refused.
    """

    state: str
    stop_reason: str | None
    claim: Granted | Nothing | None = None


@dataclass(frozen=True, slots=True)
class Release:
    """Hand a trial back unfinished. Outcome: Ended."""

    lease: Lease
    cause: str


# --- the sweeper ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sweep:
    """Expire what has run out, and note the tick. Outcome: Swept.

    `only` names one trial, or none that there is: then nothing else is looked at.
    """

    only: int | None = None


@dataclass(frozen=True, slots=True)
class Swept:
    expired: tuple[int, ...]  # trial ids


@dataclass(frozen=True, slots=True)
class Grace:
    """Move every running lease's expiry by an outage of ours. Outcome: number of leases moved."""

    outage_us: int


# --- the planner ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Propose:
    """Queue one trial. On a key that stands already: nothing (rule 7). Outcome: trial number or None.

    `start` names the trial whose committed snapshot of that step it goes on from.
    """

    study_id: int
    stage: str
    key: str
    ordinal: int
    params: Mapping[str, Any]
    work: Mapping[str, Any]
    start: Mapping[str, int] | None
    sampler_state: Mapping[str, Any]
    planned_at: int
    draft: bool


@dataclass(frozen=True, slots=True)
class Redraw:
    """Give a waiting draft new values (T5c). Outcome: True, or False if it no longer waits."""

    study_id: int
    trial: int
    params: Mapping[str, Any]
    sampler_state: Mapping[str, Any]
    planned_at: int


@dataclass(frozen=True, slots=True)
class Prune:
    """End a running trial for the planner (T5). Outcome: True, or False if it runs no more."""

    study_id: int
    trial: int
    planned_at: int
    step: int


@dataclass(frozen=True, slots=True)
class EndStage:
    """A stage said Done: store its result, activate those that waited for it, and complete the
    study after the last; a result that blocks pauses the study instead. Outcome: True, or False if
    the stage is not active (any more), or a trial of it has ended since or, queued by hand, has still
    to end."""

    study_id: int
    stage: str
    result: Mapping[str, Any]
    planned_at: int


@dataclass(frozen=True, slots=True)
class FailStage:
    """Planning a stage raised: it fails with the reason, and the study goes on or stops as after
    any failed stage. Outcome: True or False, as EndStage."""

    study_id: int
    stage: str
    reason: str


# --- people ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CreateStudy(Audited):
    """Outcome: study id. `spec` is a checked StudySpec as JSON; the first stage starts active.

    `cloned_from` is the id of the study that it was cloned from; the log keeps it.
    """

    project_id: int
    spec: Mapping[str, Any]
    actor: str
    idempotency: Idempotency | None = None
    cloned_from: int | None = None


@dataclass(frozen=True, slots=True)
class AddStage(Audited):
    """Append a stage to a study that runs or has completed. Outcome: None, or refused (conflict)."""

    study_id: int
    stage: Mapping[str, Any]
    actor: str


@dataclass(frozen=True, slots=True)
class SkipStage(Audited):
    """Outcome: None, or refused. Its waiting trials are cancelled; running ones go on."""

    study_id: int
    stage: str
    actor: str
    reason: str


@dataclass(frozen=True, slots=True)
class OverrideStage(Audited):
    """Let a study go on past a stage whose result blocks it. The stage stays failed; who, why and when
    are kept with it. Outcome: None, or refused (conflict)."""

    study_id: int
    stage: str
    actor: str
    reason: str


@dataclass(frozen=True, slots=True)
class MoveStudy(Audited):
    """Pause, resume or stop. Stopping cancels waiting and running trials; a study that a stage's result
    blocks is not resumed. Outcome: the new state."""

    study_id: int
    state: str
    actor: str
    reason: str


@dataclass(frozen=True, slots=True)
class Enqueue(Audited):
    """Queue trials by hand, all or none, under keys `hand:n`. Outcome: their numbers.

    `variant_of` is the number of the trial whose settings theirs began with.
    """

    study_id: int
    stage: str
    params: tuple[Mapping[str, Any], ...]
    work: Mapping[str, Any]
    actor: str
    idempotency: Idempotency | None = None
    variant_of: int | None = None


@dataclass(frozen=True, slots=True)
class CancelTrial(Audited):
    """Outcome: Ended; a no-op on a final trial."""

    study_id: int
    trial: int
    actor: str


@dataclass(frozen=True, slots=True)
class DrainWorker(Audited):
    """Give a worker no new trial, or trials again, also one that was set aside. Outcome: None."""

    project_id: int
    worker_id: str
    draining: bool


@dataclass(frozen=True, slots=True)
class BeginIncarnation(Audited):
    """A database was put back from a backup; see `restoring`, which applies it before anything is served.
    Outcome: the incarnation that it was copied in, and the new one, which is above that and `above`.

    `how` is what the operator gave at the command line; `copied_us` when the backup was made, None if that
    is not known.
    """

    above: int
    how: str
    copied_us: int | None
    actor: str


@dataclass(frozen=True, slots=True)
class ForgetBlobs:
    """Forget snapshots past their retention. Outcome: hashes that no row names any more."""

    older_than_us: int


Command = (
    Register | Claim | Renew | Report | CommitSnapshot | AppendLog | CommitArtifact | Finish | Release
    | Sweep | Grace | Propose | Redraw | Prune | EndStage | FailStage | CreateStudy | AddStage | SkipStage
    | OverrideStage | MoveStudy | Enqueue | CancelTrial | DrainWorker | CreateToken | RevokeToken
    | TouchTokens | CreateLoginCode | RedeemLoginCode | TouchSessions | EndSession | EndSessions
    | NoteRefusal | ForgetBlobs | TrimAudit | Retry | ImportTrials | PruneNow
    | PutAway | DeleteStudy | WriteNote | TagTrials
    | AddTarget | RemoveTarget | QueueNotices | QueueTest | TakeNotices | EndNotice
)  # fmt: skip
