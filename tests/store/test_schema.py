"""The schema on both databases: what the migrations make is what the tables say, and it refuses what is wrong."""

from __future__ import annotations

import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import MetaData, delete, func, insert, inspect, select, text, update
from sqlalchemy.exc import IntegrityError
from sqlmodel import Field, SQLModel

from batchq.errors import DatabaseOutdated
from batchq.spec import Job
from batchq.store import schema
from batchq.store import topology as topologies
from batchq.store.database import Database
from batchq.store.tables import AttemptRow, Dispatch, Group, Row, Run, Server, ServerWindow, TaskCondition, TaskRow
from play import Play
from support.older import upgrade_to

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)


class Invoice(SQLModel, table=True):
    """A table of a project that batchq joined."""

    number: int | None = Field(default=None, primary_key=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def bare(request, tmp_path):
    """A database without any table of ours."""
    if request.param == "sqlite":
        database = Database(f"sqlite:///{tmp_path / 'bare.db'}")
    else:
        database = Database(request.getfixturevalue("fresh_postgresql_url"))
        with database.write() as tx:
            tx.execute(text("DROP SCHEMA public CASCADE"))
            tx.execute(text("CREATE SCHEMA public"))
    yield database
    database.dispose()


def tables(database: Database) -> set[str]:
    with database.read() as tx:
        return set(inspect(tx).get_table_names())


# --- made and checked ---------------------------------------------------------------------------------------


def test_an_upgrade_makes_all_tables_and_a_second_one_changes_nothing(bare):
    assert schema.upgrade(bare) == (None, schema.NEWEST)
    assert tables(bare) == {*Row.metadata.tables, "batchq_version"}
    assert schema.upgrade(bare) == (schema.NEWEST, schema.NEWEST)


def test_after_an_upgrade_that_may_take_long_an_answer_is_awaited_as_before(postgresql):
    def awaited() -> float:
        with postgresql.write() as tx:
            return tx.connection.driver_connection.answer_seconds

    before = awaited()
    assert schema.upgrade(postgresql) == (schema.NEWEST, schema.NEWEST)
    assert awaited() == before


SPY = """
import sys

import psycopg
from batchq.store import schema
from batchq.store.database import Database

class Spy:
    def find_spec(name, *_):
        if name == "alembic":
            others = "SELECT state FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            with psycopg.connect(sys.argv[1].replace("+psycopg", "")) as connection:
                print([state for (state,) in connection.execute(others) if state and "transaction" in state])

sys.meta_path.insert(0, Spy)
print(schema.upgrade(Database(sys.argv[1])))
"""


def test_alembic_which_takes_long_is_imported_outside_of_the_transaction(fresh_postgresql_url):
    database = Database(fresh_postgresql_url)
    with database.write() as tx:
        tx.execute(text("DROP SCHEMA public CASCADE"))
        tx.execute(text("CREATE SCHEMA public"))
    database.dispose()
    said = [
        subprocess.run([sys.executable, "-c", SPY, fresh_postgresql_url], capture_output=True, text=True, check=True)
        for _ in range(2)
    ]
    assert [each.stdout.splitlines() for each in said] == [
        ["[]", f"(None, '{schema.NEWEST}')"],
        [f"('{schema.NEWEST}', '{schema.NEWEST}')"],  # not imported in vain
    ]


def test_the_newest_revision_is_the_head_of_the_migrations():
    assert ScriptDirectory(str(schema.FOLDER)).get_current_head() == schema.NEWEST


def test_an_upgrade_that_fails_leaves_nothing_behind(bare):
    with bare.write() as tx:
        tx.execute(text("CREATE TABLE batchq_task (id INTEGER)"))
    with pytest.raises(Exception, match="already exists"):
        schema.upgrade(bare)
    assert tables(bare) == {"batchq_task"}


def test_a_database_without_our_tables_or_of_another_schema_is_refused_with_the_command_that_helps(bare):
    with pytest.raises(DatabaseOutdated, match="holds no batchq tables yet"):
        schema.check(bare)
    schema.upgrade(bare)
    schema.check(bare)
    with bare.write() as tx:
        tx.execute(text("UPDATE batchq_version SET version_num = '0000'"))
    with pytest.raises(DatabaseOutdated, match=f"is at schema 0000, not {schema.NEWEST}"):
        schema.check(bare)


def test_the_tables_of_the_host_project_stay_out(bare):
    assert not {name for name in SQLModel.metadata.tables if name.startswith("batchq_")}
    assert Invoice.__tablename__ not in Row.metadata.tables
    SQLModel.metadata.create_all(bare.engine, [Invoice.__table__])
    with bare.write() as tx:
        tx.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32))"))
        tx.execute(text("INSERT INTO alembic_version VALUES ('theirs')"))
        tx.execute(insert(Invoice).values(number=1))
    schema.upgrade(bare)
    assert tables(bare) == {*Row.metadata.tables, "batchq_version", "invoice", "alembic_version"}
    with bare.read() as tx:
        assert tx.execute(text("SELECT version_num FROM alembic_version")).scalar_one() == "theirs"
        assert tx.execute(select(Invoice.number)).scalar_one() == 1


# --- from an older version ----------------------------------------------------------------------------------

# A run half done on a server with a window, as the first version stored it.
FIRST_VERSION = {
    "batchq_group": [{"name": "BG1", "priority": 2}],
    "batchq_server": [
        {"id": 1, "name": "AOS1", "threads": 2, "enabled": True, "liveness": "running", "epoch": 3, "beat": 7},
        {"id": 2, "name": "AOS2", "threads": 0, "enabled": False, "liveness": "lost", "epoch": 1, "beat": 0},
    ],
    "batchq_server_group": [{"server_id": 1, "group_name": "BG1"}],
    "batchq_window": [
        {"id": 1, "server_id": 1, "start": "08:00", "end": "18:00", "threads": 2, "timezone": "Europe/Oslo"},
        {"id": 2, "server_id": 1, "start": "18:00", "end": "07:30", "threads": 20, "timezone": "UTC"}
        | {"days": "mon,fri"},
    ],
    "batchq_job": [{"id": 1, "name": "JOB 1", "definition": "{}", "updated_at": NOON}],
    "batchq_run": [
        {"id": 1, "job_id": 1, "job": "JOB 1", "status": "executing", "open_tasks": 1, "submitted_at": NOON},
    ],
    "batchq_task": [
        {"id": 10, "name": "A", "status": "success", "met": 0, "pending": 0, "attempt": 1, "ended_at": NOON}
        | {"unsettled": True},
        {"id": 11, "name": "B", "status": "waiting", "met": 0, "pending": 1, "attempt": 0},
    ],
    "batchq_condition": [{"id": 1, "task_id": 11, "predecessor_id": 10, "outcome": "success", "handles": False}],
    "batchq_attempt": [
        {"task_id": 10, "attempt": 1, "server": "AOS1", "epoch": 3, "status": "success"}
        | {"claimed_at": NOON, "ended_at": NOON, "log": "done"},
    ],
}  # fmt: skip
EVERY_TASK = {
    "run_id": 1, "operation": "demo.work", "args": "[1]", "kwargs": "{}", "group_name": "BG1", "priority": 1,
    "own_priority": False, "retries": 1, "retry_delay": 0.5, "ignore_failure": False, "joined": "all",
    "impossible": 0, "unsettled": False, "offers": 0,
}  # fmt: skip


def contents(database: Database, found: MetaData) -> dict[str, list[dict[str, object]]]:
    """What stands in those columns of these tables that there are now as well."""
    stored: dict[str, list[dict[str, object]]] = {}
    with database.read() as tx:
        for table in found.sorted_tables:
            now = Row.metadata.tables.get(table.name)
            if now is not None:
                columns = [column for column in table.c if column.name in now.c]
                rows = tx.execute(select(*columns).order_by(*(table.c[key.name] for key in now.primary_key)))
                stored[table.name] = [dict(row) for row in rows.mappings()]
    return stored


def test_rows_of_the_first_version_are_all_there_after_an_upgrade(bare):
    first = upgrade_to(bare, "0001")
    with bare.write() as tx:
        for name, rows in FIRST_VERSION.items():
            for row in rows:
                tx.execute(insert(first.tables[name]).values(**(EVERY_TASK if name == "batchq_task" else {}) | row))
    before = contents(bare, first)
    assert all(before.values())

    assert schema.upgrade(bare) == ("0001", schema.NEWEST)
    schema.check(bare)
    assert contents(bare, first) == before
    with bare.read() as tx:
        assert tx.execute(select(Group.name, Group.paused).order_by(Group.name)).all() == [
            ("BG1", False),
            ("default", False),
        ]
        seen = topologies.read(tx)
    assert seen.paused == frozenset()
    assert [str(window) for window in seen.by_id[1].windows] == [
        "08:00-18:00=2 Europe/Oslo",
        "18:00-07:30=20 UTC [mon,fri]",
    ]


# Errors as older versions stored them, and the reasons that they meant.
TOLD = {
    None: None,
    "": "error",
    "ValueError: no": "error",
    "Lost: my keys": "error",
    "lost: server AOS1 went away during this attempt; what it did is not known": "lost",
    "lost: its process ended (exitcode 5) during this attempt; what it did is not known": "lost",
    "timed out: still running after 1 s": "timed_out",
    "not started: the pool of AOS1 did not take it (OSError: no)": "not_started",
    "terminated by an operator (SIGTERM) during this attempt; what it did is not known": "aborted",
    "terminated by an operator (SIGUSR1): SoftTimeLimitExceeded: SoftTimeLimitExceeded()": "aborted",
}


def test_attempts_of_an_older_version_get_the_reasons_that_their_errors_told(bare):
    before = upgrade_to(bare, "0006").tables
    with bare.write() as tx:
        for name in ("batchq_job", "batchq_run"):
            tx.execute(insert(before[name]).values(FIRST_VERSION[name]))
        task = EVERY_TASK | FIRST_VERSION["batchq_task"][0] | {"sharing": 0}
        tx.execute(insert(before["batchq_task"]).values(task))
        (attempt,) = FIRST_VERSION["batchq_attempt"]
        for number, error in enumerate(TOLD, 1):
            told = {"attempt": number, "error": error, "status": "success" if error is None else "error"}
            tx.execute(insert(before["batchq_attempt"]).values(attempt | told))

    assert schema.upgrade(bare) == ("0006", schema.NEWEST)

    with bare.read() as tx:
        assert dict(tx.execute(select(AttemptRow.error, AttemptRow.reason)).all()) == TOLD


def test_an_attempt_stored_by_an_older_process_after_the_upgrade_has_no_reason(rows):
    named = "task_id, attempt, server, epoch, status, claimed_at, ended_at, error"
    values = "task_id, 2, server, epoch, 'error', claimed_at, ended_at, 'lost: gone'"
    with rows.database.write() as tx:
        tx.execute(text(f"INSERT INTO batchq_attempt ({named}) SELECT {values} FROM batchq_attempt"))
    with rows.database.read() as tx:
        found = tx.execute(select(AttemptRow.status, AttemptRow.reason).order_by(AttemptRow.attempt)).all()
    assert found == [("success", None), ("error", None)]


def test_a_database_that_was_upgraded_has_the_definitions_of_one_made_anew(bare):
    upgrade_to(bare, "0001")
    schema.upgrade(bare)
    upgraded = definitions(bare)
    with bare.write() as tx:
        Row.metadata.drop_all(tx)
        tx.execute(text("DROP TABLE batchq_version"))
    schema.upgrade(bare)
    assert definitions(bare) == upgraded


# --- the migrations make what the tables say ----------------------------------------------------------------


PARTIAL = {
    str(index.name)
    for table in Row.metadata.tables.values()
    for index in table.indexes
    if index.dialect_options["sqlite"]["where"] is not None
}


def test_alembic_finds_no_difference_between_the_migrations_and_the_tables(database):
    def compared(_: object, name: str, kind: str, *__: object) -> bool:
        # On SQLite Alembic takes every index with a condition for another one; the next test compares them.
        return not (kind == "index" and name in PARTIAL and database.kind == "sqlite")

    options = {"version_table": "batchq_version", "compare_type": True, "include_object": compared}
    with database.write() as tx:
        assert compare_metadata(MigrationContext.configure(tx, opts=options), Row.metadata) == []


DEFINITIONS = {
    "sqlite": """
        SELECT tbl_name, name, sql FROM sqlite_master
        WHERE name LIKE 'batchq%' AND name <> 'batchq_version' OR name LIKE 'ix_batchq%'
    """,
    "postgresql": """
        SELECT tablename, indexname, indexdef FROM pg_indexes
        WHERE tablename LIKE 'batchq%' AND tablename <> 'batchq_version'
        UNION ALL
        SELECT conrelid::regclass::text, conname::text, pg_get_constraintdef(oid) FROM pg_constraint
        WHERE conrelid::regclass::text LIKE 'batchq%' AND conrelid <> 'batchq_version'::regclass
        UNION ALL
        SELECT table_name, column_name, concat_ws(' ', data_type, character_maximum_length, is_nullable)
        FROM information_schema.columns WHERE table_name LIKE 'batchq%' AND table_name <> 'batchq_version'
    """,
}


def definitions(database: Database) -> set[tuple[str, ...]]:
    """Columns, indexes with their conditions, and constraints; in SQLite the clauses of what made them.

    There a column that came later stands last in its line, with the default that its old rows got.
    """
    with database.read() as tx:
        rows = tx.execute(text(DEFINITIONS[database.kind])).all()
    if database.kind != "sqlite":
        return {tuple(row) for row in rows}
    return {
        (table, name, re.sub(r" DEFAULT \S+", "", clause.strip()))
        for table, name, sql in rows
        for clause in re.split(r",\s*\n|, (?=\w+ [A-Z])", re.sub(r"\s*\)$", "", sql.rstrip()))
    }


def test_indexes_and_constraints_are_those_of_the_tables_with_every_partial_condition(bare):
    schema.upgrade(bare)
    migrated = definitions(bare)
    with bare.write() as tx:
        Row.metadata.drop_all(tx)
    Row.metadata.create_all(bare.engine)
    assert definitions(bare) == migrated
    assert {name for _, name, definition in migrated if "WHERE" in definition} == PARTIAL


# --- what it refuses ----------------------------------------------------------------------------------------


@pytest.fixture
def rows(database):
    """One row in each table that a run needs, and a server with a window."""
    batch = Play(database)
    life = batch.server("AOS1")
    job = Job("JOB")
    first = job.task("A", "demo.work")
    job.task("B", "demo.work", after=first)
    batch.submit(job)
    batch.deliver()
    batch.finish("A")
    window = {"server_id": life.server, "start": "08:00", "end": "18:00", "threads": 2, "timezone": "UTC"}
    with database.write() as tx:
        tx.execute(insert(ServerWindow).values(**window))
    return batch


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        (TaskRow, "status", "running"),
        (TaskRow, "status", "QUEUED"),
        (TaskRow, "status", None),
        (TaskRow, "joined", "some"),
        (TaskRow, "pending", -1),
        (TaskRow, "group_name", None),
        (TaskRow, "operation", None),
        (TaskRow, "run_id", 99),
        (Run, "status", "waiting"),
        (Run, "open_tasks", -1),
        (Run, "job_id", 99),
        (TaskCondition, "outcome", "ended"),
        (TaskCondition, "task_id", 99),
        (Server, "liveness", "open"),
        (Server, "threads", -1),
        (ServerWindow, "threads", -1),
        (ServerWindow, "server_id", 99),
        (Dispatch, "id", 2),
        (AttemptRow, "task_id", 99),
        (AttemptRow, "reason", "gone"),
    ],
    ids=lambda value: getattr(value, "__tablename__", value),
)
def test_the_database_itself_refuses_what_no_rule_knows(rows, table, column, value):
    with pytest.raises(IntegrityError), rows.database.write() as tx:
        tx.execute(update(table).values({column: value}))


def test_there_is_one_dispatch_row_and_the_default_group_from_the_start(bare):
    schema.upgrade(bare)
    with bare.read() as tx:
        assert tx.execute(select(Dispatch.id, Dispatch.topology)).all() == [(1, 1)]
        assert tx.execute(select(Group.name, Group.priority)).all() == [("default", 1)]


def test_two_tasks_of_one_run_cannot_have_the_same_name(rows):
    with pytest.raises(IntegrityError), rows.database.write() as tx:
        tx.execute(update(TaskRow).values(name="A"))


def test_a_run_takes_its_tasks_conditions_and_attempts_with_it(rows):
    with rows.database.write() as tx:
        counts = [select(func.count()).select_from(table) for table in (TaskRow, TaskCondition, AttemptRow)]
        assert [tx.execute(count).scalar() for count in counts] == [2, 1, 1]
        tx.execute(delete(Run))
        assert [tx.execute(count).scalar() for count in counts] == [0, 0, 0]


def test_instants_come_back_aware_and_in_utc_to_the_microsecond(rows):
    instant = datetime.fromisoformat("2026-06-01T14:00:00.123456+02:00")
    with rows.database.write() as tx:
        tx.execute(update(Run).values(ended_at=instant))
        found = tx.execute(select(Run.ended_at)).scalar_one()
    assert (found, found.tzinfo) == (instant, UTC)


def test_the_migrations_are_part_of_the_package():
    assert Path(schema.FOLDER).is_relative_to(Path(schema.__file__).parent.parent)
    assert len(list(Path(schema.FOLDER).glob(f"versions/{schema.NEWEST}_*.py"))) == 1
