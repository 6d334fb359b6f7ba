"""Which starts of a worker are over, so that their late words change nothing."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "earlier_boots",
        sa.Column("worker_id", sa.String(length=32), nullable=False),
        sa.Column("boot_id", sa.String(length=32), nullable=False),
        sa.Column("ended_us", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["worker_id"], ["workers.id"], name=op.f("fk_earlier_boots_worker_id")),
        sa.PrimaryKeyConstraint("worker_id", "boot_id", name=op.f("pk_earlier_boots")),
    )
    op.create_index(op.f("ix_earlier_boots_ended_us"), "earlier_boots", ["ended_us"])
