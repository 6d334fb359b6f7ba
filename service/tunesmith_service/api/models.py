"""What people send and get. Requests forbid unknown fields and are taken as they stand; answers list theirs.

Times are ISO 8601 in UTC, durations are in the unit that ends their name, and numbers that are not
finite travel as the strings "NaN", "Infinity" and "-Infinity".
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Generic, Literal, TypeAlias, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer
from tunesmith_studies.stages.base import Forecast

from tunesmith_service.wire import PRINTED, Name, Number, Scalar, Text, read_whole

Item = TypeVar("Item")
TrialNumber: TypeAlias = Annotated[int, Field(ge=0, le=2**53), BeforeValidator(read_whole)]


class Question(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


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
    proposes: dict[str, Any] | None = Field(
        default=None, description="A stage that would go on from there; `POST …/stages` takes it as it is."
    )


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


class Grounds(Answer):
    """Where a stage's trials lie and what put them there."""

    ranges: dict[str, tuple[float, float]] = Field(
        description="The lowest and the highest value of each number that varies."
    )
    steps: dict[str, str] = Field(
        description="How far values lie apart that were placed around others, such as `0.5 decades`."
    )
    source: str | None = Field(description="The stage whose trials they lie around.")
    trials: list[int] = Field(description="Those trials' numbers, best first.")


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
    grounds: Grounds | None = Field(
        description="Where it looks; none while that depends on a stage that has not ended, and of stages "
        "that only measure or train again what was tried."
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
    gpus: int = Field(description="Devices that a slot must have for a trial of it.")
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


class StageDryRun(Answer):
    """A stage as it would be added, and what it would run at most; nothing was added."""

    stage: dict[str, Any]
    forecast: Forecast


class Difference(Answer):
    """A field of a specification by its path, such as `stages.coarse.epochs`; null where it is not there."""

    path: str
    was: Any
    now: Any


class Clone(Question):
    """A study like another, with some fields changed."""

    name: Name = Field(description="Of the new study.")
    changes: dict[str, Any] = Field(
        default={},
        max_length=1000,
        description="New values by path, such as `space.lr.high` or `stages.coarse.epochs`; null takes a "
        "field away. With a change under `recipe` the recipe writes the stages anew.",
    )


class Cloned(Created):
    differences: list[Difference] = Field(description="To the study it was cloned from.")


class CloneDryRun(DryRun):
    differences: list[Difference] = Field(description="To the study it would be cloned from.")


class Moved(Answer):
    id: int
    name: str
    state: str


class Why(Question):
    reason: Text = Field(default="", max_length=1024)


class OverrideReason(Question):
    reason: str = Field(
        min_length=1,
        max_length=2000,
        pattern=r"^[^\x00]*[^\s\x00][^\x00]*$",
        description="Why to go on all the same; it is kept.",
    )


class PutAway(Answer):
    id: int
    name: str
    archived: bool


class Note(Answer):
    text: str
    version: int = Field(description="Goes up with each change; the ETag.")


class NewNote(Question):
    text: Text = Field(max_length=20_000, description="Plain text.")


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
    variant_of: int | None = Field(
        default=None, description="The trial whose settings this one, queued by hand, began with."
    )
    imported: dict[str, Any] | None = Field(
        default=None, description="Of a trial that was run elsewhere: its number and attributes there."
    )
    tags: list[str] = Field(default=[], description="Words that people gave it.")
    test_read: int | None = Field(
        description="It read the test split, and was the nth of its project to read this task's."
    )
    start: dict[str, int] | None = Field(description="Trial and step of the snapshot that it goes on from.")
    created_at: Moment
    started_at: Moment | None
    ended_at: Moment | None


class TrialsPage(Page[Trial]):
    """A page of trials."""

    total_estimate: int = Field(description="How many trials the filter picks, on all pages.")


class TrialDetail(Trial):
    error: dict[str, Any] | None
    attempts: list[Attempt]
    snapshots: list[int] = Field(description="Steps of committed snapshots.")
    artifacts: list[str]
    findings: list[Finding] = Field(description="What its curve shows so far, the gravest first.")


class Enqueue(Question):
    """Trials to queue by hand, all or none."""

    params: list[dict[Name, Scalar]] = Field(min_length=1, max_length=1000)
    like: TrialNumber | None = Field(
        default=None,
        description="Vary this trial: what `params` leaves out is as there, and the new ones name it in "
        "`variant_of`.",
    )
    stage: Name | None = Field(
        default=None, description="Default: that of `like` if it is still to run, else the active one."
    )
    epochs: Annotated[int, Field(ge=1), BeforeValidator(read_whole)] | None = Field(
        default=None, description="Default: the stage's."
    )


class Enqueued(Answer):
    numbers: list[int]


_INSIDE = PRINTED.removeprefix("^[^").removesuffix("]*$")
Tag = Annotated[
    str, Field(min_length=1, max_length=64, pattern=rf"^[^\s{_INSIDE}]([^{_INSIDE}]*[^\s{_INSIDE}])?$")
]
"""As names, and without blanks at its ends."""


class Tagging(Question):
    """Tags to give to trials and to take from them."""

    trials: list[TrialNumber] = Field(min_length=1, max_length=1000, description="Their numbers.")
    add: list[Tag] = Field(default=[], max_length=20)
    remove: list[Tag] = Field(default=[], max_length=20)


class Tagged(Answer):
    """A tag of a study's trials, and how many have it."""

    tag: str
    trials: int


class Rerun(Question):
    """Which trials to queue again."""

    trials: list[TrialNumber] | None = Field(
        default=None,
        min_length=1,
        max_length=1000,
        description="Their numbers, all or none; default: all failed ones that nobody has tried again yet.",
    )


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
    aside_until: Moment | None = Field(
        description="Until then it gets no trial, for it broke one after another soon after their claims."
    )
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


class Session(Answer):
    """A browser that this token has logged in."""

    key: str
    browser: str = Field(description="Roughly, from what the browser says of itself.")
    begun_at: Moment
    last_seen_at: Moment
    expires_at: Moment = Field(description="It ends then at the latest; sooner if nobody uses it.")


class LoginCode(Answer):
    code: str
    url: str = Field(description="Opens the dashboard, once.")
    expires_seconds: float
