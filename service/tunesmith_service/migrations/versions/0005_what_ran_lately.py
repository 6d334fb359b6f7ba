"""Indexes for what ran lately, for trials of a state, and for those that have read the test split."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_attempts_ended_us", "attempts", ["ended_us"])
    op.create_index("ix_trials_state_study_id_number", "trials", ["state", "study_id", "number"])
    has_read = sa.text("test_read IS NOT NULL")
    op.create_index(
        "ix_trials_test_read", "trials", ["study_id", "test_read"],
        sqlite_where=has_read, postgresql_where=has_read,
    )  # fmt: skip
