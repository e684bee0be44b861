"""Conditions no longer store their own end: the task they wait for tells it."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.add_column("batchq_task", sa.Column("settled_to", BIG, nullable=True))
    # Conditions are resolved in the order of the tasks that wait, so the last one says how far it got.
    op.execute(
        "UPDATE batchq_task SET settled_to = (SELECT max(c.task_id) FROM batchq_condition c"
        " WHERE c.predecessor_id = batchq_task.id AND c.met IS NOT NULL) WHERE unsettled"
    )
    op.execute(
        "CREATE TEMPORARY TABLE batchq_kept AS SELECT predecessor_id, task_id, outcome, handles FROM batchq_condition"
    )
    op.drop_table("batchq_condition")
    op.create_table(
        "batchq_condition",
        sa.Column("predecessor_id", BIG, nullable=False),
        sa.Column("task_id", BIG, nullable=False),
        sa.Column("outcome", sa.String(), nullable=False),
        sa.Column("handles", sa.Boolean(), nullable=False),
        sa.CheckConstraint("outcome IN ('success', 'error', 'finished')", name="outcome_known"),
        sa.ForeignKeyConstraint(["task_id"], ["batchq_task.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("predecessor_id", "task_id", "outcome"),
        sqlite_with_rowid=False,
    )
    op.execute(
        "INSERT INTO batchq_condition (predecessor_id, task_id, outcome, handles)"
        " SELECT predecessor_id, task_id, outcome, handles FROM batchq_kept"
    )
    op.execute("DROP TABLE batchq_kept")
    op.create_index("ix_batchq_condition_task_id", "batchq_condition", ["task_id"], unique=False)
    handles = sa.text("handles")
    op.create_index(
        "batchq_condition_handles",
        "batchq_condition",
        ["predecessor_id"],
        sqlite_where=handles,
        postgresql_where=handles,
    )
