"""Tables of notifications: who is told, what was sent, and how far each study's log has been told."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from tunesmith_service.tables import BigId, metadata

targets = Table(
    "targets",
    metadata,
    Column("id", BigId, primary_key=True),
    Column("name", String(128), nullable=False, unique=True),
    Column("kind", String(16), nullable=False),
    Column("destination", String(2048), nullable=False),
    Column("events", JSON(none_as_null=True), nullable=False),
    Column("secret", String(128)),  # as it is: the server signs with it
    Column("created_us", BigInteger, nullable=False),
    CheckConstraint("kind IN ('webhook', 'slack', 'email')", name="kind"),
    CheckConstraint("(kind = 'webhook') = (secret IS NOT NULL)", name="secret"),
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("id", BigId, primary_key=True),
    Column("key", String(32), nullable=False, unique=True),  # what the receiver sees, the same at each try
    Column("target_id", BigId, ForeignKey("targets.id"), nullable=False),
    Column("study_id", BigId, ForeignKey("studies.id"), index=True),  # null: a test
    Column("n", BigInteger),  # the event of that study
    Column("event", String(16), nullable=False),
    Column("body", JSON(none_as_null=True), nullable=False),
    Column("state", String(16), nullable=False),
    Column("tries", BigInteger, nullable=False, server_default=text("0")),  # fences late answers
    Column("due_us", BigInteger, nullable=False),  # when it is tried next; of one under way, tried again
    Column("created_us", BigInteger, nullable=False),
    Column("ended_us", BigInteger),
    Column("said", Text),  # what the last try came to
    UniqueConstraint("target_id", "study_id", "n", "event"),  # two servers cannot both queue it
    CheckConstraint("state IN ('waiting', 'delivered', 'failed')", name="state"),
    CheckConstraint("(state = 'waiting') = (ended_us IS NULL)", name="ended"),
    Index(
        "ix_deliveries_due", "due_us",
        sqlite_where=text("state = 'waiting'"), postgresql_where=text("state = 'waiting'"),
    ),
)  # fmt: skip

told = Table(
    "told",
    metadata,
    Column("study_id", BigId, ForeignKey("studies.id"), primary_key=True, autoincrement=False),
    Column("n", BigInteger, nullable=False),  # the last event that was looked at
)
