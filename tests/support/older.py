"""Databases as older versions left them: of their schema, with a run half done in it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, MetaData, insert, select, text

from batchq import Job
from batchq.store import schema
from batchq.store.columns import TASK
from batchq.store.database import Database
from batchq.store.tables import Row
from play import Play, came_true

REVISIONS = sorted(script.revision for script in ScriptDirectory(str(schema.FOLDER)).walk_revisions())
# Every state in which a task can be while its run is open, and where the run below has it.
HALF_DONE = {
    "DONE": "success",
    "FAILED": "error",
    "ONCE": "executing",
    "AGAIN": "executing",
    "TICKET": "queued",
    "READY": "ready",
    "HANDLER": "ready",
    "DIDN'T RUN": "didnt_run",
    "JOINED": "waiting",
    "LAST": "waiting",
}
# What older tables call their columns.
NAMES = {"settled_up_to": "settled_to", "own_class": "priority"}
# How it ends when no task fails, and nothing is lost.
ENDED = dict.fromkeys(HALF_DONE, "success") | {"FAILED": "error", "DIDN'T RUN": "didnt_run"}


def half_done(batch: Play) -> int:
    """A run as HALF_DONE has it, on AOS1 with two threads and AOS2 with one; returns its number."""
    batch.server("AOS1", 2)
    batch.server("AOS2", 1)
    run = batch.submit(_job())
    batch.deliver()
    batch.finish("DONE")
    batch.fast_path = False
    batch.finish("FAILED", ok=False)
    batch.forward()
    assert batch.states(run) == HALF_DONE
    return run


def _job() -> Job:
    job = Job("HALF DONE", run_by="amy", company="NO1")

    def task(name: str, **options: object) -> None:
        job.task(name, "ledger.work", **options)  # type: ignore[arg-type]

    task("DONE")
    task("FAILED", kwargs={"fail": True})
    task("ONCE")
    task("AGAIN", retries=1)
    task("TICKET", kwargs={"result": "æ'\""})
    task("READY")
    task("HANDLER", after={"FAILED": "error"})
    task("DIDN'T RUN", after={"FAILED": "success"})
    task("JOINED", after={"ONCE": "finished", "TICKET": "success"})
    task("LAST", after={"JOINED": "success", "HANDLER": "success"}, join="all")
    return job


def make(database: Database, revision: str, of: Database) -> None:
    """Make the database anew at an older schema, with all rows `of` another one of the newest."""
    with database.write() as tx:
        Row.metadata.drop_all(tx)
        tx.execute(text("DROP TABLE IF EXISTS batchq_version"))
    tables = upgrade_to(database, revision)
    with database.write() as tx:
        for table in reversed(tables.sorted_tables):
            if table.name not in ("batchq_version", "batchq_audit"):  # the audit refuses, and is empty
                tx.execute(table.delete())
        for table, rows in _rows(of, tables):
            tx.execute(insert(tables.tables[table]), rows)
        if database.kind != "sqlite":
            _count_on(tx, tables)


def upgrade_to(database: Database, revision: str) -> MetaData:
    """Bring a database to an older schema than the newest; returns its tables."""
    found = MetaData()
    with database.write() as tx:
        config = Config()
        config.set_main_option("script_location", str(schema.FOLDER))
        config.attributes["connection"] = tx
        command.upgrade(config, revision)
        found.reflect(tx)
    return found


def _rows(of: Database, tables: MetaData) -> Iterator[tuple[str, list[dict[str, object]]]]:
    """What the older tables have room for."""
    with of.read() as tx:
        for table in Row.metadata.sorted_tables:
            if table.name in tables.tables:
                older = tables.tables[table.name].columns
                columns = [
                    column.label(name)
                    for column in table.columns
                    if (name := column.name if column.name in older else NAMES.get(column.name, "none")) in older
                ]
                rows = [dict(row) for row in tx.execute(select(*columns)).mappings()]
                if "waits_with" not in tables.tables["batchq_task"].columns:
                    rows = _each_its_own(tx, table.name, rows)
                if table.name == "batchq_condition" and "met" in tables.tables[table.name].columns:
                    rows = _with_what_became_of_them(tx, rows)
                if rows:
                    yield table.name, rows


def _each_its_own(tx: Connection, table: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Tasks and conditions as they were kept before tasks shared conditions."""
    tasks = {row.id: row for row in tx.execute(select(*TASK))}
    if table == "batchq_condition":
        at: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
        for row in rows:
            at[row["task_id"]].append(row)
        return [row | {"task_id": task} for task, one in tasks.items() for row in at[one.waits_with or task]]
    if table == "batchq_task":
        counted = ((row, tasks[tasks[row["id"]].waits_with or row["id"]]) for row in rows)
        return [row | {name: getattr(at, name) for name in ("pending", "met", "impossible")} for row, at in counted]
    return rows


def _with_what_became_of_them(tx: Connection, conditions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Conditions as they were kept before the task that they wait for told what became of them."""
    ends = {row.id: row for row in tx.execute(select(*TASK))}
    return [row | {"met": came_true(SimpleNamespace(**row), ends[row["predecessor_id"]])} for row in conditions]


def _count_on(tx: object, tables: MetaData) -> None:
    """Rows that came with their numbers have not moved PostgreSQL's counters."""
    for name, table in Row.metadata.tables.items():
        if name in tables.tables and "id" in table.columns and table.columns["id"].autoincrement is not False:
            tx.execute(text(f"SELECT setval(pg_get_serial_sequence('{name}', 'id'), max(id)) FROM {name}"))  # type: ignore[attr-defined]
