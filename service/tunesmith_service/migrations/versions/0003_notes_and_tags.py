"""Notes on studies and who created them, tags on trials; indexes for counts and bests."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Plain columns: SQLite adds them without building the tables anew, so its triggers stay.
    op.add_column("studies", sa.Column("note", sa.Text(), server_default=sa.text("''"), nullable=False))
    version = sa.Column("note_version", sa.BigInteger(), server_default=sa.text("0"), nullable=False)
    op.add_column("studies", version)
    op.add_column("studies", sa.Column("created_by", sa.String(length=128), nullable=True))
    op.add_column("trials", sa.Column("tags", sa.JSON(none_as_null=True), nullable=True))
    counted = ["study_id", "stage_id", "state", "value"]
    op.create_index("ix_trials_study_id_stage_id_state_value", "trials", counted)
    op.create_index("ix_trials_study_id_value", "trials", ["study_id", "value"])
