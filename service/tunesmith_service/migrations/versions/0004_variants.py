"""Which trial a trial by hand varies."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # A plain column: SQLite adds it without building the table anew, so its triggers stay.
    op.add_column("trials", sa.Column("variant_of", sa.BigInteger(), nullable=True))
    only = sa.text("variant_of IS NOT NULL")
    op.create_index(
        "ix_trials_variant_of", "trials", ["study_id", "variant_of"], sqlite_where=only, postgresql_where=only
    )
