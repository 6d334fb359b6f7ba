"""Trials that measure have no value; members of an evaluation; reads of test sets; overridden stages."""

import sqlalchemy as sa
from alembic import op

from tunesmith_service import guards

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    kind = sa.Column("kind", sa.String(length=16), server_default="train", nullable=False)
    value = "(state = 'complete' AND kind = 'train') = (value IS NOT NULL)"
    with op.batch_alter_table("trials") as trials:
        trials.add_column(kind)
        trials.add_column(sa.Column("test_read", sa.BigInteger(), nullable=True))
        trials.drop_constraint(op.f("ck_trials_value"), type_="check")
        trials.create_check_constraint(op.f("ck_trials_value"), value)
    op.add_column("stages", sa.Column("override", sa.JSON(none_as_null=True), nullable=True))
    op.create_table(
        "members",
        sa.Column("trial_id", _ID, nullable=False),
        sa.Column("place", sa.Integer(), nullable=False),
        sa.Column("snapshot_id", _ID, nullable=False),
        sa.ForeignKeyConstraint(["trial_id"], ["trials.id"], name=op.f("fk_members_trial_id")),
        sa.ForeignKeyConstraint(["snapshot_id"], ["snapshots.id"], name=op.f("fk_members_snapshot_id")),
        sa.PrimaryKeyConstraint("trial_id", "place", name=op.f("pk_members")),
    )
    op.create_table(
        "test_reads",
        sa.Column("project_id", _ID, nullable=False),
        sa.Column("task", sa.String(length=128), nullable=False),
        sa.Column("reads", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_test_reads_project_id")),
        sa.PrimaryKeyConstraint("project_id", "task", name=op.f("pk_test_reads")),
    )
    guards.install(op.get_bind())
