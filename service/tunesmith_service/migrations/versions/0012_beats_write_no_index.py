"""Running trials by their worker, as each start of one looks for them, not by the end of their leases. Each
beat and report moved its trial in that index, and PostgreSQL then writes the row anew in all others too; now
none is written, where the page has room for the row's next version."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_index("ix_trials_running", "trials")
    op.create_index(
        "ix_trials_running", "trials", ["worker_id"],
        sqlite_where=sa.text("state = 'running'"), postgresql_where=sa.text("state = 'running'"),
    )  # fmt: skip
    if op.get_bind().dialect.name == "postgresql":
        op.execute("ALTER TABLE trials SET (fillfactor = 75)")
