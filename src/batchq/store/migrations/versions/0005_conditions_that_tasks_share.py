"""Tasks with the very same conditions share them: they are stored and counted once."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    # An older process would move only one of the tasks that share. Under this name it cannot settle what has ended, and
    # within a second it knows why, and leaves it to others.
    op.execute("ALTER TABLE batchq_task RENAME COLUMN settled_to TO settled_up_to")
    # The tasks that are there keep their own.
    op.add_column("batchq_task", sa.Column("waits_with", BIG, nullable=True))
    op.add_column("batchq_task", sa.Column("sharing", sa.Integer(), nullable=False, server_default="0"))
    shared = sa.text("waits_with IS NOT NULL")
    op.create_index(
        "batchq_task_waits_with", "batchq_task", ["waits_with"], sqlite_where=shared, postgresql_where=shared
    )
