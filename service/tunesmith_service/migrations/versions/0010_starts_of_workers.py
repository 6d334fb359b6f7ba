"""How often a worker has started, so that the late words of an earlier start change nothing."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # A plain column: SQLite adds it without building the table anew, so its triggers stay.
    op.add_column(
        "workers", sa.Column("starts", sa.BigInteger(), server_default=sa.text("0"), nullable=False)
    )
