"""What trials that were run elsewhere had there beside their settings: a number, and attributes."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("trials", sa.Column("imported", sa.JSON(none_as_null=True), nullable=True))
