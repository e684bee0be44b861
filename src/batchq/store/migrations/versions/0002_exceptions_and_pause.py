"""Windows of one date, and groups that are paused."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("batchq_window", sa.Column("only", sa.Date(), nullable=True))
    op.add_column("batchq_group", sa.Column("paused", sa.Boolean(), nullable=False, server_default=sa.false()))
