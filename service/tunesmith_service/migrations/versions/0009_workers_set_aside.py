"""Workers that break one trial after another are set aside for a while."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Plain columns: SQLite adds them without building the tables anew, so its triggers stay.
    op.add_column("workers", sa.Column("aside_until_us", sa.BigInteger(), nullable=True))
    op.add_column(
        "workers", sa.Column("times_aside", sa.BigInteger(), server_default=sa.text("0"), nullable=False)
    )
    op.add_column(
        "attempts", sa.Column("early_fault", sa.Boolean(), server_default=sa.false(), nullable=False)
    )
