"""Notifications: who is told, what was sent, and how far each study's log has been told."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "targets",
        sa.Column("id", ID, nullable=False),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("destination", sa.String(length=2048), nullable=False),
        sa.Column("events", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("secret", sa.String(length=128), nullable=True),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("kind IN ('webhook', 'slack', 'email')", name=op.f("ck_targets_kind")),
        sa.CheckConstraint("(kind = 'webhook') = (secret IS NOT NULL)", name=op.f("ck_targets_secret")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_targets")),
        sa.UniqueConstraint("name", name=op.f("uq_targets_name")),
    )
    op.create_table(
        "deliveries",
        sa.Column("id", ID, nullable=False),
        sa.Column("key", sa.String(length=32), nullable=False),
        sa.Column("target_id", ID, nullable=False),
        sa.Column("study_id", ID, nullable=True),
        sa.Column("n", sa.BigInteger(), nullable=True),
        sa.Column("event", sa.String(length=16), nullable=False),
        sa.Column("body", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("tries", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("due_us", sa.BigInteger(), nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.Column("ended_us", sa.BigInteger(), nullable=True),
        sa.Column("said", sa.Text(), nullable=True),
        sa.CheckConstraint("state IN ('waiting', 'delivered', 'failed')", name=op.f("ck_deliveries_state")),
        sa.CheckConstraint("(state = 'waiting') = (ended_us IS NULL)", name=op.f("ck_deliveries_ended")),
        sa.ForeignKeyConstraint(["target_id"], ["targets.id"], name=op.f("fk_deliveries_target_id")),
        sa.ForeignKeyConstraint(["study_id"], ["studies.id"], name=op.f("fk_deliveries_study_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_deliveries")),
        sa.UniqueConstraint("key", name=op.f("uq_deliveries_key")),
        sa.UniqueConstraint(
            "target_id", "study_id", "n", "event", name=op.f("uq_deliveries_target_id_study_id_n_event")
        ),
    )
    op.create_index(op.f("ix_deliveries_study_id"), "deliveries", ["study_id"], unique=False)
    op.create_index(
        "ix_deliveries_due", "deliveries", ["due_us"],
        sqlite_where=sa.text("state = 'waiting'"), postgresql_where=sa.text("state = 'waiting'"),
    )  # fmt: skip
    op.create_table(
        "told",
        sa.Column("study_id", ID, autoincrement=False, nullable=False),
        sa.Column("n", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["study_id"], ["studies.id"], name=op.f("fk_told_study_id")),
        sa.PrimaryKeyConstraint("study_id", name=op.f("pk_told")),
    )
