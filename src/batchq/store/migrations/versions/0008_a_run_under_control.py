"""Holds, limits, retries that wait, aborts, gates, overrides and the audit; a run's number is never given again."""

from collections.abc import Sequence
from typing import Any, TypeVar

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

T = TypeVar("T")
BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
OUTCOMES = "outcome IN ('success', 'error', 'finished', 'skipped', 'over')"


def upgrade() -> None:
    # An older process would start tasks of held runs and over limits. Under this name it cannot look for ready tasks,
    # and within a second it knows why, and leaves them to others.
    op.execute("ALTER TABLE batchq_task RENAME COLUMN priority TO own_class")
    if op.get_context().dialect.name != "sqlite":  # from version 18 on PostgreSQL names what is not null
        op.execute(
            "DO $$ BEGIN IF EXISTS (SELECT FROM pg_constraint WHERE conname = 'batchq_task_priority_not_null') THEN"
            " ALTER TABLE batchq_task RENAME CONSTRAINT batchq_task_priority_not_null"
            " TO batchq_task_own_class_not_null; END IF; END $$"
        )
    op.drop_index("batchq_task_ready", "batchq_task")
    op.drop_index("batchq_task_out", "batchq_task")
    _columns()
    _tables()
    _lanes()
    _audit_stays()
    _outcomes()


def _columns() -> None:
    def flag(name: str) -> sa.Column[bool]:
        return sa.Column(name, sa.Boolean(), nullable=False, server_default=sa.false())

    def number(name: str, type_: sa.types.TypeEngine[int] | None = None) -> sa.Column[int]:
        return sa.Column(name, type_ or sa.Integer(), nullable=False, server_default="0")

    def none(name: str, type_: sa.types.TypeEngine[T], *check: sa.CheckConstraint) -> sa.Column[T]:
        return sa.Column(name, type_, *check, nullable=True)

    instant, text, name = sa.DateTime(timezone=True), sa.Text(), sa.String(200)
    not_negative = sa.CheckConstraint("per_run >= 0", name="per_run_not_negative")
    override = sa.CheckConstraint("override_threads >= 0", name="override_not_negative")
    added: dict[str, Sequence[sa.Column[Any]]] = {
        "batchq_group": [none("per_run", sa.Integer(), not_negative)],
        "batchq_server": [
            none("override_threads", sa.Integer(), override),
            none("override_until", instant),
            none("override_by", name),
            none("override_why", text),
        ],
        "batchq_job": [
            none("tasks_at_once", sa.Integer()),
            flag("withheld"),
            none("withheld_by", name),
            none("withheld_at", instant),
            none("withheld_why", text),
        ],
        "batchq_run": [
            flag("held"),
            none("held_by", name),
            none("held_at", instant),
            none("held_why", text),
            none("moving_from", BIG),
            none("retry", text),
            number("verdicts"),
        ],
        "batchq_task": [
            number("lane", BIG),
            flag("aside"),
            none("policy", text),
            none("retry_after", sa.Double()),
            number("retried_at"),
            flag("abort"),
            flag("gate"),
            flag("unnamed"),
            none("stage", name),
            flag("repeatable"),
            none("accepted", text),
        ],
        "batchq_attempt": [none("error_class", text), none("ready_at", instant), flag("repeatable")],
    }
    for table, columns in added.items():
        for column in columns:
            op.add_column(table, column)
    _index("batchq_run_moving", "batchq_run", ["id"], "moving_from IS NOT NULL")
    _index("batchq_run_retrying", "batchq_run", ["id"], "retry IS NOT NULL")
    _index("batchq_task_aside", "batchq_task", ["run_id", "id"], "aside")
    _index("batchq_attempt_failed", "batchq_attempt", ["ended_at"], "status <> 'success'")


def _index(name: str, table: str, columns: Sequence[str | sa.TextClause], where: str) -> None:
    op.create_index(name, table, columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where))


def _tables() -> None:
    op.create_table(
        "batchq_lane",
        sa.Column("id", BIG, primary_key=True),
        sa.Column("group_name", sa.String(200), nullable=False),
        sa.Column("limits", sa.Text(), nullable=False),
        sa.Column("run_id", BIG, nullable=True),
        sa.Column("closed", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.UniqueConstraint("group_name", "limits", name="batchq_lane_key"),
    )
    _index("batchq_lane_open", "batchq_lane", ["id"], "NOT closed")
    _index("batchq_lane_of_run", "batchq_lane", ["run_id"], "run_id IS NOT NULL")
    op.create_table(
        "batchq_limit",
        sa.Column("name", sa.String(200), primary_key=True),
        sa.Column("units", sa.Integer(), nullable=False),
        sa.CheckConstraint("units >= 0", name="units_not_negative"),
    )
    op.create_table(
        "batchq_audit",
        sa.Column("id", BIG, primary_key=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("who", sa.String(200), nullable=False),
        sa.Column("by", sa.String(16), nullable=False),
        sa.Column("what", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(64), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("before", sa.Text(), nullable=True),
        sa.Column("after", sa.Text(), nullable=True),
        sa.Column("why", sa.Text(), nullable=True),
    )
    op.create_index("ix_batchq_audit_at", "batchq_audit", ["at"])
    op.create_table(
        "batchq_counter",
        sa.Column("name", sa.String(200), primary_key=True),
        sa.Column("value", BIG, nullable=False, server_default="0"),
    )
    op.execute("INSERT INTO batchq_counter (name, value) SELECT 'batchq_run', coalesce(max(id), 0) FROM batchq_run")


def _lanes() -> None:
    """Give each group its lane, and put the tasks there that are still to run."""
    op.execute("INSERT INTO batchq_lane (group_name, limits) SELECT name, '[]' FROM batchq_group")
    op.execute(
        "UPDATE batchq_task SET lane = coalesce((SELECT batchq_lane.id FROM batchq_lane"
        " WHERE batchq_lane.group_name = batchq_task.group_name), 0)"
        " WHERE status IN ('waiting', 'ready', 'queued', 'executing')"
    )
    ready: list[str | sa.TextClause] = ["lane", sa.text("own_class DESC"), "ready_at", "id"]
    _index("batchq_task_ready", "batchq_task", ready, "status = 'ready' AND NOT aside")
    _index("batchq_task_out", "batchq_task", ["status", "lane", "server_id"], "status IN ('queued', 'executing')")


def _audit_stays() -> None:
    """Let the database itself refuse to change or delete a line of the audit."""
    if op.get_context().dialect.name == "sqlite":
        for act in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER batchq_audit_no_{act.lower()} BEFORE {act} ON batchq_audit"
                " BEGIN SELECT RAISE(ABORT, 'batchq_audit is only added to'); END"
            )
        return
    op.execute(
        "CREATE OR REPLACE FUNCTION batchq_audit_stays() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'batchq_audit is only added to'; END $$"
    )
    op.execute(
        "CREATE TRIGGER batchq_audit_stays BEFORE UPDATE OR DELETE OR TRUNCATE ON batchq_audit"
        " FOR EACH STATEMENT EXECUTE FUNCTION batchq_audit_stays()"
    )


def _outcomes() -> None:
    """Let conditions ask for the new outcomes too."""
    if op.get_context().dialect.name != "sqlite":
        op.drop_constraint("outcome_known", "batchq_condition")
        op.create_check_constraint("outcome_known", "batchq_condition", OUTCOMES)
        return
    op.execute("ALTER TABLE batchq_condition RENAME TO batchq_kept")
    op.execute("DROP INDEX ix_batchq_condition_task_id")
    op.execute("DROP INDEX batchq_condition_handles")
    op.create_table(
        "batchq_condition",
        sa.Column("predecessor_id", BIG, nullable=False),
        sa.Column("task_id", BIG, nullable=False),
        sa.Column("outcome", sa.String(), nullable=False),
        sa.Column("handles", sa.Boolean(), nullable=False),
        sa.CheckConstraint(OUTCOMES, name="outcome_known"),
        sa.ForeignKeyConstraint(["task_id"], ["batchq_task.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("predecessor_id", "task_id", "outcome"),
        sqlite_with_rowid=False,
    )
    op.execute(
        "INSERT INTO batchq_condition (predecessor_id, task_id, outcome, handles)"
        " SELECT predecessor_id, task_id, outcome, handles FROM batchq_kept"
    )
    op.execute("DROP TABLE batchq_kept")
    op.create_index("ix_batchq_condition_task_id", "batchq_condition", ["task_id"])
    _index("batchq_condition_handles", "batchq_condition", ["predecessor_id"], "handles")
