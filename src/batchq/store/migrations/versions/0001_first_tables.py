"""The first tables: groups, servers, jobs, runs, tasks, conditions, attempts."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "batchq_dispatch",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("topology", sa.Integer(), nullable=False),
        sa.CheckConstraint("id = 1", name="one_row"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "batchq_group",
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "batchq_job",
        sa.Column("id", BIG, nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("definition", sa.Text(), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("name"),
    )
    op.create_table(
        "batchq_server",
        sa.Column("id", BIG, nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("threads", sa.Integer(), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("liveness", sa.String(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("beat", BIG, nullable=False),
        sa.Column("beat_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("host", sa.String(), nullable=True),
        sa.Column("pid", sa.Integer(), nullable=True),
        sa.Column("life", sa.Text(), nullable=True),
        sa.Column("pool", sa.Integer(), nullable=True),
        sa.Column("pool_kind", sa.String(), nullable=True),
        sa.CheckConstraint("liveness IN ('stopped', 'running', 'lost')", name="liveness_known"),
        sa.CheckConstraint("threads >= 0", name="threads_not_negative"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("name"),
    )
    op.create_table(
        "batchq_run",
        sa.Column("id", BIG, nullable=False),
        sa.Column("job_id", BIG, nullable=False),
        sa.Column("job", sa.String(200), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("open_tasks", sa.Integer(), nullable=False),
        sa.Column("run_by", sa.String(200), nullable=True),
        sa.Column("company", sa.String(200), nullable=True),
        sa.Column("submitted_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "status IN ('storing', 'executing', 'canceling', 'success', 'error', 'canceled')",
            name="status_known",
        ),
        sa.CheckConstraint("open_tasks >= 0", name="open_tasks_not_negative"),
        sa.ForeignKeyConstraint(
            ["job_id"],
            ["batchq_job.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_batchq_run_job_id", "batchq_run", ["job_id"], unique=False)
    op.create_table(
        "batchq_server_group",
        sa.Column("server_id", BIG, nullable=False),
        sa.Column("group_name", sa.String(200), nullable=False),
        sa.ForeignKeyConstraint(
            ["group_name"],
            ["batchq_group.name"],
        ),
        sa.ForeignKeyConstraint(["server_id"], ["batchq_server.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("server_id", "group_name"),
    )
    op.create_table(
        "batchq_window",
        sa.Column("id", BIG, nullable=False),
        sa.Column("server_id", BIG, nullable=False),
        sa.Column("start", sa.String(8), nullable=False),
        sa.Column("end", sa.String(8), nullable=False),
        sa.Column("threads", sa.Integer(), nullable=False),
        sa.Column("timezone", sa.String(64), nullable=False),
        sa.Column("days", sa.String(32), nullable=True),
        sa.CheckConstraint("threads >= 0", name="threads_not_negative"),
        sa.ForeignKeyConstraint(["server_id"], ["batchq_server.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_batchq_window_server_id", "batchq_window", ["server_id"], unique=False)
    op.create_table(
        "batchq_task",
        sa.Column("id", BIG, autoincrement=False, nullable=False),
        sa.Column("run_id", BIG, nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("operation", sa.String(), nullable=False),
        sa.Column("args", sa.Text(), nullable=False),
        sa.Column("kwargs", sa.Text(), nullable=False),
        sa.Column("group_name", sa.String(200), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("own_priority", sa.Boolean(), nullable=False),
        sa.Column("retries", sa.Integer(), nullable=False),
        sa.Column("retry_delay", sa.Float(), nullable=False),
        sa.Column("time_limit", sa.Float(), nullable=True),
        sa.Column("ignore_failure", sa.Boolean(), nullable=False),
        sa.Column("joined", sa.String(), nullable=False),
        sa.Column("pending", sa.Integer(), nullable=False),
        sa.Column("met", sa.Integer(), nullable=False),
        sa.Column("impossible", sa.Integer(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("unsettled", sa.Boolean(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("token", sa.String(36), nullable=True),
        sa.Column("offers", sa.Integer(), nullable=False),
        sa.Column("server_id", BIG, nullable=True),
        sa.Column("epoch", sa.Integer(), nullable=True),
        sa.Column("ready_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("queued_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("claimed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("result", sa.Text(), nullable=True),
        sa.CheckConstraint("joined IN ('all', 'any')", name="joined_known"),
        sa.CheckConstraint(
            "status IN ('waiting', 'ready', 'queued', 'executing', 'success', 'error', 'didnt_run', 'canceled')",
            name="status_known",
        ),
        sa.CheckConstraint("pending >= 0", name="pending_not_negative"),
        sa.ForeignKeyConstraint(["run_id"], ["batchq_run.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("run_id", "name", name="batchq_task_name"),
    )
    op.create_table(
        "batchq_attempt",
        sa.Column("task_id", BIG, nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("server", sa.String(200), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("claimed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("log", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["task_id"], ["batchq_task.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("task_id", "attempt"),
    )
    op.create_table(
        "batchq_condition",
        sa.Column("id", BIG, nullable=False),
        sa.Column("task_id", BIG, nullable=False),
        sa.Column("predecessor_id", BIG, nullable=False),
        sa.Column("outcome", sa.String(), nullable=False),
        sa.Column("handles", sa.Boolean(), nullable=False),
        sa.Column("met", sa.Boolean(), nullable=True),
        sa.CheckConstraint("outcome IN ('success', 'error', 'finished')", name="outcome_known"),
        sa.ForeignKeyConstraint(["task_id"], ["batchq_task.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_batchq_condition_task_id", "batchq_condition", ["task_id"], unique=False)
    partial("batchq_run_open", "batchq_run", "id", where="status IN ('storing', 'executing', 'canceling')")
    partial(
        "batchq_task_ready",
        "batchq_task",
        "group_name",
        "priority DESC",
        "ready_at",
        "id",
        where="status = 'ready'",
    )
    partial(
        "batchq_task_out",
        "batchq_task",
        "status",
        "group_name",
        "server_id",
        where="status IN ('queued', 'executing')",
    )
    partial("batchq_task_failed", "batchq_task", "run_id", where="status IN ('error', 'canceled')")
    partial("batchq_task_unsettled", "batchq_task", "run_id", "id", where="unsettled")
    partial("batchq_condition_handles", "batchq_condition", "predecessor_id", where="handles")
    partial("batchq_condition_open", "batchq_condition", "predecessor_id", "id", where="met IS NULL")
    op.execute("INSERT INTO batchq_dispatch (id, topology) VALUES (1, 1)")
    op.execute("INSERT INTO batchq_group (name, priority) VALUES ('default', 1)")


def partial(name: str, table: str, *columns: str, where: str) -> None:
    op.create_index(
        name,
        table,
        [sa.text(column) for column in columns],
        sqlite_where=sa.text(where),
        postgresql_where=sa.text(where),
    )
