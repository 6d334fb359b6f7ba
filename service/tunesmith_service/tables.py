"""Tables, constraints and indexes: the database itself holds us to what must be true.

Times are integer microseconds in columns ending in `_us`. JSON is kept as written (PostgreSQL: JSON
rather than JSONB, which would turn 1e16 into an integer and sort keys), so a proposal read back is
the proposal to the byte. `guards` has the triggers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
    text,
)
from tunesmith_studies.trial import StageState, StudyState, TrialState

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

ROLES = ("viewer", "researcher", "worker", "admin", "operator")

BigId = BigInteger().with_variant(Integer, "sqlite")  # SQLite counts up only a plain INTEGER key


def _json(name: str, *, nullable: bool = True) -> Column[Any]:
    return Column(name, JSON(none_as_null=True), nullable=nullable)


def _id() -> Column[int]:
    return Column("id", BigId, primary_key=True)


def _us(name: str, *, nullable: bool = True) -> Column[int]:
    return Column(name, BigInteger, nullable=nullable)


def _count(name: str) -> Column[int]:
    return Column(name, BigInteger, nullable=False, server_default=text("0"))


def _flag(name: str) -> Column[bool]:
    return Column(name, Boolean, nullable=False, server_default=false())


def _to(name: str, target: str, *, nullable: bool = False) -> Column[int]:
    return Column(name, BigId, ForeignKey(target), nullable=nullable)


def _one_of(column: str, values: Sequence[str], name: str) -> CheckConstraint:
    listed = ", ".join(f"'{v}'" for v in values)
    return CheckConstraint(f"{column} IN ({listed})", name=name)


instance = Table(
    "instance",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("uuid", String(32), nullable=False),
    Column("incarnation", BigInteger, nullable=False),
    _us("clock_floor_us", nullable=False),
    _us("last_tick_us", nullable=False),
    CheckConstraint("id = 1", name="one_row"),
)

projects = Table("projects", metadata, _id(), Column("name", String(128), nullable=False, unique=True))

# --- who may do what ------------------------------------------------------------------------------

tokens = Table(
    "tokens",
    metadata,
    _id(),
    _to("project_id", "projects.id", nullable=True),
    Column("key_id", String(64), nullable=False, unique=True),
    Column("secret_hash", LargeBinary(32), nullable=False),
    Column("role", String(16), nullable=False),
    Column("name", String(128), nullable=False),
    _us("created_us", nullable=False),
    _us("expires_us"),
    _us("last_used_us"),
    _us("revoked_us"),
    _one_of("role", ROLES, "role"),
    CheckConstraint("(role = 'operator') = (project_id IS NULL)", name="project"),
)

login_codes = Table(
    "login_codes",
    metadata,
    Column("code_hash", LargeBinary(32), primary_key=True),
    _to("token_id", "tokens.id"),
    _us("expires_us", nullable=False),
    _us("used_us"),
)

sessions = Table(
    "sessions",
    metadata,
    Column("session_hash", LargeBinary(32), primary_key=True),
    _to("token_id", "tokens.id"),
    _us("begun_us", nullable=False),
    _us("last_seen_us", nullable=False),
    _us("expires_us", nullable=False),
    Column("browser", String(64), nullable=False),
)

audit = Table(
    "audit",
    metadata,
    Column("n", BigId, primary_key=True, autoincrement=False),  # from 1, without gaps
    _us("at_us", nullable=False),
    Column("action", String(32), nullable=False),
    Column("actor", String(128), nullable=False),
    Column("key_id", String(64), nullable=False),
    Column("address", String(64), nullable=False),
    Column("request_id", String(64), nullable=False),
    Column("project_id", BigId, index=True),  # no foreign key: entries outlive what they are about
    Column("subject", String(255), nullable=False),
    _json("detail", nullable=False),
    Column("before", String(64)),  # digests of what it is about; null where that was not there
    Column("after", String(64)),
    Column("previous", String(64), nullable=False),  # the hash of entry n - 1
    Column("hash", String(64), nullable=False),
)

audit_chain = Table(
    "audit_chain",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("head_n", BigInteger, nullable=False),  # the newest entry
    Column("head_hash", String(64), nullable=False),
    Column("anchor_n", BigInteger, nullable=False),  # the last that was removed after its time
    Column("anchor_hash", String(64), nullable=False),
    CheckConstraint("id = 1", name="one_row"),
    CheckConstraint("anchor_n <= head_n", name="order"),
)

idempotency = Table(
    "idempotency",
    metadata,
    Column("scope", String(255), nullable=False),
    Column("key", String(255), nullable=False),
    Column("body_hash", LargeBinary(32), nullable=False),
    _json("answer", nullable=False),
    _us("created_us", nullable=False),
    PrimaryKeyConstraint("scope", "key"),
)

# --- workers --------------------------------------------------------------------------------------

workers = Table(
    "workers",
    metadata,
    Column("id", String(32), primary_key=True),
    _to("project_id", "projects.id"),
    _to("token_id", "tokens.id"),
    Column("name", String(128), nullable=False),
    Column("boot_id", String(32), nullable=False),
    Column("version", String(128), nullable=False),
    _json("tasks", nullable=False),
    _json("slots", nullable=False),
    _flag("draining"),
    _us("first_seen_us", nullable=False),
    _us("last_seen_us", nullable=False),
    _us("aside_until_us"),  # it broke one trial after another, and gets none before then
    _count("times_aside"),  # in a row; each lasts twice as long
    _count("starts"),  # how often it has started; a registration of an earlier start comes too late
)

slots = Table(
    "slots",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("worker_id", String(32), ForeignKey("workers.id"), nullable=False, index=True),
    _json("devices", nullable=False),
)

# --- studies, stages, trials ----------------------------------------------------------------------

studies = Table(
    "studies",
    metadata,
    _id(),
    _to("project_id", "projects.id"),
    Column("name", String(128), nullable=False),
    Column("state", String(16), nullable=False),
    Column("reason", String),
    _flag("archived"),
    _json("spec", nullable=False),
    Column("task", String(128), nullable=False),
    Column("task_digest", String(64)),  # pinned by the first claim
    Column("priority", Integer, nullable=False),
    _count("event_n"),  # newest event's number, given under this row's lock
    _count("trial_n"),  # the next trial's number
    _count("hand_n"),  # trials enqueued by hand
    _count("running"),
    _count("waiting"),
    _count("finished"),
    Column("max_concurrent", BigInteger),
    Column("max_trials", BigInteger),
    _us("max_gpu_us"),
    Column("gpu_us", BigInteger, nullable=False, server_default=text("0")),
    _us("deadline_us"),
    _us("created_us", nullable=False),
    _us("ended_us"),
    Column("note", Text, nullable=False, server_default=text("''")),  # plain text, by people
    _count("note_version"),  # goes up with each change, so that two who edit at once are told
    Column("created_by", String(128)),  # null for those of the first releases
    UniqueConstraint("project_id", "name"),
    _one_of("state", tuple(StudyState), "state"),
    CheckConstraint("running >= 0 AND waiting >= 0 AND finished >= 0", name="counts"),
    CheckConstraint("running + waiting + finished = trial_n", name="every_trial_counts_once"),
    CheckConstraint("running <= max_concurrent", name="max_concurrent"),
    CheckConstraint("trial_n <= max_trials", name="max_trials"),
)

stages = Table(
    "stages",
    metadata,
    _id(),
    _to("study_id", "studies.id"),
    Column("position", Integer, nullable=False),
    Column("name", String(128), nullable=False),
    Column("kind", String(64), nullable=False),
    _json("spec", nullable=False),
    Column("state", String(16), nullable=False),
    Column("reason", String),
    _json("result"),
    _count("last_end_n"),  # event that last ended one of its trials; older drafts are stale
    _us("activated_us"),
    _us("ended_us"),
    _json("override"),  # who let the study go on past a result that blocks, why and when
    UniqueConstraint("study_id", "position"),
    UniqueConstraint("study_id", "name"),
    _one_of("state", tuple(StageState), "state"),
)

moves = Table(
    "moves",
    metadata,
    Column("from_state", String(16), nullable=False),
    Column("to_state", String(16), nullable=False),
    PrimaryKeyConstraint("from_state", "to_state"),
)

trials = Table(
    "trials",
    metadata,
    _id(),
    _to("study_id", "studies.id"),
    _to("stage_id", "stages.id"),
    Column("number", BigInteger, nullable=False),
    Column("key", String(512), nullable=False),
    Column("ordinal", BigInteger, nullable=False),
    Column("state", String(16), nullable=False),
    Column("stop_reason", String(32)),
    _json("params", nullable=False),
    _json("work", nullable=False),
    _json("start"),
    Column("start_snapshot_id", BigId),
    _json("sampler_state", nullable=False),
    Column("planned_at", BigInteger, nullable=False),
    _flag("draft"),
    _flag("hand"),
    Column("retry_of", BigInteger),
    # attempt counts claims and only goes up: it shuts out late writers
    _count("attempt"),
    Column("incarnation", BigInteger),
    Column("lease_hash", String(64)),  # hex: it joins with batches, which are JSON
    _us("lease_expires_us"),
    Column("claim_id", String(32), unique=True),
    Column("worker_id", String(32)),
    Column("slot_id", String(32)),
    Column("boot_id", String(32)),
    Column("not_before_us", BigInteger, nullable=False, server_default=text("0")),
    _count("losses"),
    _count("failures"),
    _count("preemptions"),
    _count("report_seq"),  # of this attempt
    _count("step"),  # of this attempt's newest point, or what it resumed from
    _count("furthest"),  # highest step that any attempt has reached: more is progress
    Column("value", Float),
    _json("last_metrics"),
    _json("error"),
    _us("created_us", nullable=False),
    _us("started_us"),
    _us("ended_us"),
    Column("kind", String(16), nullable=False, server_default="train"),  # `work.kind`; others measure
    Column("test_read", BigInteger),  # the nth trial of its project to read this task's test split
    _json("tags"),  # a sorted list of words that people gave it
    Column("variant_of", BigInteger),  # the trial whose settings a trial by hand began with
    _json("imported"),  # of a trial that was run elsewhere: {number, attributes} as it had them there
    UniqueConstraint("study_id", "number"),
    UniqueConstraint("stage_id", "key"),
    _one_of("state", tuple(TrialState), "state"),
    # A running trial has a lease and no other trial does.
    CheckConstraint("(state = 'running') = (lease_hash IS NOT NULL)", name="lease_hash"),
    CheckConstraint("(state = 'running') = (lease_expires_us IS NOT NULL)", name="lease_expires"),
    CheckConstraint(
        "(state IN ('waiting', 'running')) = (stop_reason IS NULL)", name="a_finished_trial_says_why"
    ),
    CheckConstraint("(state = 'complete' AND kind = 'train') = (value IS NOT NULL)", name="value"),
    Index(
        "ix_trials_waiting", "study_id", "not_before_us",
        sqlite_where=text("state = 'waiting'"), postgresql_where=text("state = 'waiting'"),
    ),
    Index(
        "ix_trials_due", "stage_id", "hand", "ordinal", "number",
        sqlite_where=text("state = 'waiting'"), postgresql_where=text("state = 'waiting'"),
    ),
    Index(
        "ix_trials_running", "worker_id",
        sqlite_where=text("state = 'running'"), postgresql_where=text("state = 'running'"),
    ),
    # counts and bests of each stage, and a study's best, without reading its trials
    Index(None, "study_id", "stage_id", "state", "value"),
    Index(None, "study_id", "value"),
    # Those of a state, the newest first. SQLite, which has no figures of ours, would take an index that
    # begins with study_id for any question about a study.
    Index(None, "state", "study_id", "number"),
    Index(
        "ix_trials_test_read", "study_id", "test_read",
        sqlite_where=text("test_read IS NOT NULL"), postgresql_where=text("test_read IS NOT NULL"),
    ),
    Index(
        "ix_trials_variant_of", "study_id", "variant_of",
        sqlite_where=text("variant_of IS NOT NULL"), postgresql_where=text("variant_of IS NOT NULL"),
    ),
    Index(
        "uq_trials_slot", "slot_id", unique=True,
        sqlite_where=text("state = 'running'"), postgresql_where=text("state = 'running'"),
    ),
    # No index holds what a beat or a report changes, and pages keep room: so PostgreSQL writes the row alone.
    postgresql_with={"fillfactor": 75},
)  # fmt: skip

attempts = Table(
    "attempts",
    metadata,
    _to("trial_id", "trials.id"),
    Column("attempt", BigInteger, nullable=False),
    Column("incarnation", BigInteger, nullable=False),
    Column("lease_hash", String(64), nullable=False),
    Column("worker_id", String(32), nullable=False),
    Column("slot_id", String(32), nullable=False),
    Column("devices", Integer, nullable=False),
    Column("claim_id", String(32), nullable=False, unique=True),
    _us("claimed_us", nullable=False),
    Column("resume_step", BigInteger, nullable=False),
    Column("resume_snapshot_id", BigId),
    Column("ended_us", BigInteger, index=True),  # the fleet asks for the last hours
    Column("ending", String(32)),  # the cause that ended it, such as finish, release, expired
    Column("said", String(64)),  # digest of the finish or release that ended it
    _json("outcome"),  # what that was answered
    _flag("early_fault"),  # a fault of its machine ended it soon after its claim; see `faulty`
    PrimaryKeyConstraint("trial_id", "attempt"),
    CheckConstraint("(ended_us IS NULL) = (ending IS NULL)", name="ending"),
    postgresql_with={"fillfactor": 75},
)

members = Table(
    "members",
    metadata,
    _to("trial_id", "trials.id"),
    Column("place", Integer, nullable=False),  # in `work.members`
    _to("snapshot_id", "snapshots.id"),
    PrimaryKeyConstraint("trial_id", "place"),
)

test_reads = Table(
    "test_reads",
    metadata,
    _to("project_id", "projects.id"),
    Column("task", String(128), nullable=False),
    Column("reads", BigInteger, nullable=False),  # trials that have read this task's test split
    PrimaryKeyConstraint("project_id", "task"),
)

# --- the log --------------------------------------------------------------------------------------

events = Table(
    "events",
    metadata,
    _to("study_id", "studies.id"),
    Column("n", BigInteger, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("trial_id", BigId),
    Column("trial_number", BigInteger),
    Column("stage", String(128)),
    _us("at_us", nullable=False),
    Column("actor", String(128), nullable=False),
    Column("cause", String(128)),
    _json("data", nullable=False),
    PrimaryKeyConstraint("study_id", "n"),
    Index("ix_events_trial", "trial_id"),
)

reports = Table(
    "reports",
    metadata,
    Column("trial_id", BigId, nullable=False),
    Column("attempt", BigInteger, nullable=False),
    Column("seq", BigInteger, nullable=False),
    _to("study_id", "studies.id"),
    Column("n", BigInteger, nullable=False),
    Column("trial_number", BigInteger, nullable=False),
    Column("stage", String(128), nullable=False),
    _us("at_us", nullable=False),
    Column("digest", String(64), nullable=False),
    _json("points", nullable=False),
    PrimaryKeyConstraint("trial_id", "attempt", "seq"),
    UniqueConstraint("study_id", "n"),
    ForeignKeyConstraint(["trial_id", "attempt"], ["attempts.trial_id", "attempts.attempt"]),
)

# --- bytes by content hash ------------------------------------------------------------------------

blobs = Table(
    "blobs",
    metadata,
    Column("sha256", String(64), primary_key=True),
    Column("size", BigInteger, nullable=False),
    _us("created_us", nullable=False),
)


def _sha256() -> Column[str]:
    return Column("sha256", String(64), ForeignKey("blobs.sha256"), nullable=False, index=True)


snapshots = Table(
    "snapshots",
    metadata,
    _id(),
    _to("trial_id", "trials.id"),
    Column("attempt", BigInteger, nullable=False),
    Column("step", BigInteger, nullable=False),
    # no foreign key: a forgotten snapshot's row outlives its bytes
    Column("sha256", String(64), nullable=False, index=True),
    Column("size", BigInteger, nullable=False),
    _us("committed_us", nullable=False),
    _us("forgotten_us"),
    UniqueConstraint("trial_id", "attempt", "step"),
)

logs = Table(
    "logs",
    metadata,
    _to("trial_id", "trials.id"),
    Column("attempt", BigInteger, nullable=False),
    Column("seq", BigInteger, nullable=False),
    _sha256(),
    Column("size", BigInteger, nullable=False),
    _us("at_us", nullable=False),
    PrimaryKeyConstraint("trial_id", "attempt", "seq"),
)

artifacts = Table(
    "artifacts",
    metadata,
    _to("trial_id", "trials.id"),
    Column("name", String(128), nullable=False),
    Column("attempt", BigInteger, nullable=False),
    _sha256(),
    Column("size", BigInteger, nullable=False),
    _us("at_us", nullable=False),
    PrimaryKeyConstraint("trial_id", "name"),
)
