"""What people send and get. Requests forbid unknown fields; answers list theirs.

Times are ISO 8601 in UTC, durations are in the unit that ends their name, and numbers that are not
finite travel as the strings "NaN", "Infinity" and "-Infinity".
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Generic, Literal, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer
from tunesmith_studies.stages.base import Forecast

from tunesmith_service.wire import Name, Number, Scalar

Item = TypeVar("Item")


class Question(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Answer(BaseModel):
    model_config = ConfigDict(frozen=True, ser_json_inf_nan="strings", from_attributes=True)


def moment(us: int | None) -> datetime | None:
    """Microseconds since 1970 as a time."""
    return None if us is None else datetime.fromtimestamp(us / 1e6, UTC)


Moment: TypeAlias = Annotated[
    datetime, PlainSerializer(lambda t: t.isoformat().replace("+00:00", "Z"), return_type=str)
]
Metrics: TypeAlias = dict[str, Number]


class Page(Answer, Generic[Item]):
    """One page of a list; ask again with `cursor` until `next_cursor` is null."""

    items: list[Item]
    next_cursor: str | None = None


# --- health ---------------------------------------------------------------------------------------


class Alive(Answer):
    status: Literal["alive"] = "alive"
    version: str


class Ready(Answer):
    """Each part is "ok", or says what is wrong with it."""

    ready: bool
    database: str
    sweeper: str
    planner: str


# --- studies --------------------------------------------------------------------------------------


class Counts(Answer):
    """Trials by state."""

    waiting: int = 0
    running: int = 0
    complete: int = 0
    pruned: int = 0
    failed: int = 0
    cancelled: int = 0


class Best(Answer):
    """A complete trial and its objective."""

    number: int
    stage: str
    value: Number
    params: dict[str, Scalar]


class Finding(Answer):
    """What was seen, by which rule, and what to do. Levels: fail, warn, info, pass."""

    kind: str
    level: Literal["fail", "warn", "info", "pass"]
    sentence: str
    rule: str
    next_step: str
    numbers: dict[str, Any]
    trials: list[int]


class StageFinding(Finding):
    stage: str


class Override(Answer):
    """Somebody let the study go on past a stage that blocked it."""

    reason: str
    actor: str
    at: Moment


class StageTime(Answer):
    """How long a stage will take, by what preflight measured."""

    seconds: float = Field(description="By the clock, on the slots that are there now.")
    gpu_hours: float


class TestRead(Answer):
    trial: int
    stage: str
    nth: int = Field(description="The how manieth trial of the project to read this task's test split.")


class Stage(Answer):
    name: str
    kind: str
    state: str
    reason: str | None
    counts: Counts
    forecast: Forecast | None = Field(description="The most that it plans, before anything has run.")
    result: dict[str, Any] | None = Field(
        description="Once done: `ranking`, `why`, `chosen`, `numbers`, `failed`, `findings`, `blocks`."
    )
    time: StageTime | None = Field(description="Once a preflight has measured it.")
    override: Override | None
    activated_at: Moment | None
    ended_at: Moment | None


class StudySummary(Answer):
    id: int
    name: str
    state: str
    reason: str | None
    archived: bool
    task: str
    task_digest: str | None = Field(description="Pinned by the first claim.")
    metric: str
    direction: str
    counts: Counts
    best: Best | None
    stage: str | None = Field(description="The active stage.")
    blocked_by: str | None = Field(
        description="The stage whose result keeps the study from going on, until it is overridden."
    )
    gpu_hours: float = Field(description="Slot-hours used; on a CPU, a slot's hours.")
    created_at: Moment
    ended_at: Moment | None


class Study(StudySummary):
    stages: list[Stage]
    spec: dict[str, Any]
    event_n: int = Field(description="Number of the newest event; the ETag.")
    waiting_for: str | None = Field(description="Why no trial runs, if none does though some could.")
    test_reads: list[TestRead] = Field(description="Trials that have read the test split.")
    warnings: list[str] = Field(description="What to know before believing a figure of this study.")


class Created(Answer):
    """A study as it was created, and what stands in its way."""

    id: int
    name: str
    state: str
    forecast: dict[str, Forecast]
    recipe: str | None = Field(default=None, description="Which recipe wrote the stages, if one did.")
    notes: list[str] = Field(default=[], description="What of its recipe this study cannot have, and why.")
    warnings: list[str] = []


class DryRun(Answer):
    """What a study would run at most; nothing was created."""

    name: str
    stages: dict[str, Forecast]
    trials: int
    epochs: int
    likely_epochs: int = Field(description="As it usually comes out.")
    snapshots: int
    recipe: str | None = Field(default=None, description="Which recipe wrote the stages, if one did.")
    notes: list[str] = Field(default=[], description="What of its recipe this study cannot have, and why.")
    snapshot_bytes: int | None = Field(
        default=None, description="By the largest that a trial of this task has left; unknown until one has."
    )
    warnings: list[str] = []


class Moved(Answer):
    id: int
    name: str
    state: str


class Why(Question):
    reason: str = Field(default="", max_length=1024)


class OverrideReason(Question):
    reason: str = Field(
        min_length=1, max_length=2000, pattern=r"\S", description="Why to go on all the same; it is kept."
    )


# --- trials ---------------------------------------------------------------------------------------


class Attempt(Answer):
    """One lease of a trial."""

    attempt: int
    worker: str | None
    claimed_at: Moment
    resume_step: int = Field(description="Step of the snapshot that it went on from; 0 for none.")
    ended_at: Moment | None
    ending: str | None


class Trial(Answer):
    id: int
    number: int
    stage: str
    key: str
    state: str
    stop_reason: str | None
    params: dict[str, Scalar]
    kind: str = Field(description="`train` gives a value; the other kinds measure for their stage.")
    epochs: int
    unit: Literal["epoch", "step"] = Field(description="What `step` counts.")
    step: int
    value: Number | None
    last_metrics: Metrics | None
    attempt: int
    worker: str | None
    draft: bool
    hand: bool
    retry_of: int | None
    test_read: int | None = Field(
        description="It read the test split, and was the nth of its project to read this task's."
    )
    start: dict[str, int] | None = Field(description="Trial and step of the snapshot that it goes on from.")
    created_at: Moment
    started_at: Moment | None
    ended_at: Moment | None


class TrialDetail(Trial):
    error: dict[str, Any] | None
    attempts: list[Attempt]
    snapshots: list[int] = Field(description="Steps of committed snapshots.")
    artifacts: list[str]
    findings: list[Finding] = Field(description="What its curve shows so far, the gravest first.")


class Enqueue(Question):
    """Trials to queue by hand, all or none."""

    params: list[dict[Name, Scalar]] = Field(min_length=1, max_length=1000)
    stage: Name | None = Field(default=None, description="Default: the active one.")
    epochs: int | None = Field(default=None, ge=1, description="Default: the stage's.")


class Enqueued(Answer):
    numbers: list[int]


class TrialEnded(Answer):
    number: int
    state: str
    stop_reason: str | None


class Point(Answer):
    step: int
    metrics: Metrics


class Curve(Answer):
    """What the trial reported, without points that a resumed attempt trained again."""

    number: int
    points: list[Point]


class LogChunk(Answer):
    attempt: int
    seq: int
    at: Moment
    text: str


class Event(Answer):
    n: int
    kind: str
    trial: int | None
    stage: str | None
    at: Moment
    actor: str
    cause: str | None
    data: dict[str, Any]


# --- workers and tokens ---------------------------------------------------------------------------


class Slot(Answer):
    id: str
    devices: list[str]


class Worker(Answer):
    id: str
    name: str
    version: str
    online: bool
    draining: bool
    tasks: dict[str, str]
    slots: list[Slot]
    running: int = Field(description="Trials it runs.")
    first_seen_at: Moment
    last_seen_at: Moment


class Token(Answer):
    """A token without its secret."""

    key_id: str
    name: str
    role: str
    created_at: Moment
    expires_at: Moment | None
    last_used_at: Moment | None
    revoked_at: Moment | None


class NewToken(Question):
    name: Name
    role: Literal["viewer", "researcher", "worker", "admin", "operator"] = "researcher"
    days: float | None = Field(
        default=None, gt=0, le=3650, description="Lifetime; default 30 for a worker, 90 for a person."
    )


class TokenCreated(Answer):
    """The only time that a token is shown."""

    key_id: str
    name: str
    role: str
    token: str
    expires_at: Moment | None


class LoginCode(Answer):
    code: str
    url: str = Field(description="Opens the dashboard, once.")
    expires_seconds: float
