"""The contract between service and workers: request and reply bodies. Imports pydantic alone.

Requests are taken as they stand: unknown fields are forbidden, "5" is no number, 1 is no truth value.
Replies ignore what they do not know, so a newer server may say more. Numbers that are not finite travel
both ways as the strings "NaN", "Infinity" and "-Infinity".
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, field_validator

LEASE_HEADER = "Tunesmith-Lease"
"""`incarnation.attempt.secret` of the lease that a worker's write belongs to."""

NonFinite: TypeAlias = Literal["NaN", "Infinity", "-Infinity"]
_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def _read_number(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("a number, not true or false")
    if isinstance(value, str):
        if value not in _NON_FINITE:
            raise ValueError('a number, or one of the strings "NaN", "Infinity", "-Infinity"')
        return _NON_FINITE[value]
    return value


def read_whole(value: Any) -> Any:
    """5.0 is 5, for JSON has one kind of number."""
    return int(value) if type(value) is float and value.is_integer() else value


def show_number(value: float) -> float | str:
    """How a number travels in JSON."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return value


Number: TypeAlias = Annotated[
    float,
    Field(strict=False),
    BeforeValidator(_read_number, json_schema_input_type=float | NonFinite),
    PlainSerializer(show_number, return_type=float | str, when_used="json"),
]
Whole: TypeAlias = Annotated[int, BeforeValidator(read_whole)]
PRINTED = "^[^\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]*$"
"""As in a study: no control characters, and none that turns the text around them."""

Text: TypeAlias = Annotated[str, Field(pattern="^[^\x00]*$")]
"""Anything but NUL, which no database stores."""

Name: TypeAlias = Annotated[str, Field(min_length=1, max_length=128, pattern=PRINTED)]
Hex128: TypeAlias = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Sha256: TypeAlias = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Scalar: TypeAlias = bool | int | float | str


class Request(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Reply(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


# --- workers and claims ---------------------------------------------------------------------------


class Register(Request):
    """A supervisor says who it is; again after each start, with a new `boot_id` and one more in `starts`."""

    worker_id: Hex128 = Field(description="Random, kept in the worker's state directory.")
    boot_id: Hex128 = Field(description="Random at each start.")
    starts: int = Field(
        ge=1, le=2**53,
        description="How often this worker has started, counted in its state directory: "
        "the highest start counts, and an earlier one, whose words come late, is refused.",
    )  # fmt: skip
    name: Name = Field(description="For people, such as host:0; not an identity.")
    version: Name
    tasks: dict[Name, Sha256] = Field(description="Digest of each task this worker serves.", max_length=256)
    slots: list[Slot] = Field(min_length=1, max_length=256)

    @field_validator("slots")
    @classmethod
    def _differ(cls, slots: list[Slot]) -> list[Slot]:
        ids = [slot.slot_id for slot in slots]
        if twice := next((i for i in ids if ids.count(i) > 1), None):
            raise ValueError(f"slot {twice} stands twice; each slot has an id of its own")
        return slots


class Slot(Request):
    """One trial at a time on a set of devices."""

    slot_id: Hex128
    devices: list[Name] = Field(description="Such as cuda:0 or cpu.", min_length=1, max_length=64)


class Registered(Reply):
    ttl_seconds: float = Field(description="A lease lives this long after each renewal.")
    beat_seconds: float
    direct_transfers: bool = Field(
        default=False, description="Ask `uploads` and `downloads` where bytes go and come from."
    )


class Claim(Request):
    """A slot asks for a trial."""

    claim_id: Hex128 = Field(description="Random; the same claim again gets the same lease while current.")
    worker_id: Hex128
    boot_id: Hex128
    slot_id: Hex128
    secret: Hex128 = Field(description="The lease's secret, picked by the worker; the service keeps a hash.")
    study: Name | None = Field(
        default=None,
        description="Ask for a trial of this study alone, for which its task need not be declared: whoever "
        "names a study answers for the code. Without a name, any study whose task the worker declared.",
    )


class ClaimRequest(Claim):
    """Ask for a trial; answered when there is one, or with no grant after `wait_seconds`."""

    wait_seconds: float = Field(default=0, ge=0, le=20)


class SnapshotRef(Reply):
    """A committed snapshot to go on from; `GET …/leases/{trial_id}/snapshots/{sha256}` has the bytes."""

    sha256: Sha256
    step: int
    size: int


class WorkOrder(Reply):
    """All that a trainer needs. The task is a key of the worker's own registry, never code."""

    study: str
    stage: str
    number: int
    task: str
    params: dict[str, Scalar]
    epochs: int = Field(
        description="Train until this many epochs are done, those before `resume` included; with `steps` or "
        "`seconds` the most there may be."
    )
    seed: int
    kind: Literal["train", "preflight", "range_test", "evaluate"] = Field(
        default="train", description="`train` reports the objective; the others measure for their stage."
    )
    data_fraction: float = 1.0
    steps: int | None = Field(default=None, description="Train until this many optimizer steps are done.")
    seconds: float | None = Field(
        default=None, description="Train until this much time was spent in training, without evaluations."
    )
    validate_every: int = Field(
        default=0, description="Evaluate after every so many optimizer steps, as well as after each epoch."
    )
    fold: tuple[int, int] | None = Field(
        default=None,
        description="(i, k): train on all but the i-th of k parts of training and validation split, "
        "validate on that part.",
    )
    stop_at_plateau: bool = False
    keep_snapshot: bool = Field(default=False, description="Upload a snapshot at the end.")
    inspect: bool = Field(
        default=False, description="Leave confusion matrix, predictions and worst mistakes as artifacts."
    )
    members: list[SnapshotRef] = Field(
        default=[], description="Of `evaluate`: snapshots whose models it evaluates, alone and averaged."
    )
    read_test: bool = Field(default=False, description="May read the test split and report under `test/`.")
    options: dict[str, Scalar] = Field(default={}, description="Of the measuring kinds.")
    gpus: int | None = Field(
        default=None,
        description="`train` is to be done by so many of the slot's devices together; none: as the trainer "
        "likes, which the built-in one does on one.",
    )
    snapshot_every_seconds: float = 600
    metric: str
    direction: Literal["minimize", "maximize"]
    resume: SnapshotRef | None = Field(
        default=None,
        description="The trial's own newest snapshot, else the one its proposal starts from.",
    )


class Grant(Reply):
    trial_id: int
    incarnation: int
    attempt: int
    ttl_seconds: float
    work: WorkOrder


class ClaimReply(Reply):
    grant: Grant | None = Field(default=None, description="None: nothing to do yet, claim again.")
    draining: bool = Field(default=False, description="This worker shall take no new trial.")
    ended: bool = Field(default=False, description="The study that was named has ended: ask no more.")


# --- what a lease's holder may write --------------------------------------------------------------


class Heartbeat(Request):
    pass


class Renewed(Reply):
    ttl_seconds: float


class ReportPoint(Request):
    step: Whole = Field(ge=0, le=2**31 - 1)
    metrics: dict[Name, Number] = Field(min_length=1, max_length=256)


class Report(Request):
    """Points in rising order of step. `seq` counts an attempt's reports from 1 without gaps."""

    seq: Whole = Field(ge=1, le=2**31 - 1)
    points: list[ReportPoint] = Field(min_length=1, max_length=500)


class Reported(Reply):
    duplicate: bool = False
    ttl_seconds: float


class AskUpload(Request):
    """A file to be sent, before it is committed as a snapshot or artifact."""

    sha256: Sha256
    size: Whole = Field(ge=0, le=2**53, description="In bytes.")


class Upload(Reply):
    """Where a file goes: nowhere if it is `stored`; to `url`, by PUT with these headers and no others of
    meaning, within a quarter of an hour; or, without a URL, to `PUT …/blobs/{sha256}`."""

    stored: bool = False
    url: str | None = None
    headers: dict[str, str] = {}


class Download(Reply):
    """Where a file comes from: `url`, within a quarter of an hour; without, `GET …/snapshots/{sha256}`."""

    url: str | None = None


class CommitSnapshot(Request):
    """Publish bytes put before as this attempt's snapshot of `step`."""

    step: Whole = Field(ge=0, le=2**31 - 1)
    sha256: Sha256


class LogChunk(Request):
    seq: Whole = Field(ge=1, le=2**31 - 1)
    text: str = Field(max_length=262_144)


class CommitArtifact(Request):
    name: Name
    sha256: Sha256


class TrialError(Request):
    """Why a trial failed, for the person who must repair it."""

    kind: Name = Field(description="Exception class, or out_of_memory, killed, protocol_error, …")
    message: Text = Field(max_length=16_384)
    traceback: Text = Field(default="", max_length=65_536)


class Finish(Request):
    """The end of a trial. The service works out the objective from the reports itself."""

    state: Literal["complete", "pruned", "failed"]
    stop_reason: Literal["budget", "early_stopping", "plateau", "diverged", "error"]
    error: TrialError | None = None
    retryable: bool = Field(default=False, description="A fault of the machine, not of the trial.")
    report: Report | None = Field(
        default=None, description="The last one, taken before the end; if it is refused, so is the finish."
    )
    claim: Claim | None = Field(
        default=None,
        description="The slot's next one, answered without a wait once the trial has ended; when in doubt, "
        "send it again as `POST /claims`.",
    )


class Release(Request):
    """Hand a trial back unfinished; it costs no retry."""

    cause: Literal["preempted", "shutdown"]


class Finished(Reply):
    state: str
    stop_reason: str | None = None
    claim: ClaimReply | None = Field(
        default=None, description="Of the finish's claim; None: not asked, or not decided, so ask again."
    )


class Problem(Reply):
    """RFC 9457. `type` is `urn:tunesmith:` and a stable name, such as lease_lost."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[dict[str, str]] = []
    request_id: str | None = None
    outcome: dict[str, Any] | None = None
