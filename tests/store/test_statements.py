"""The statements of the hot path find their rows by an index: no scan over all tasks, conditions or attempts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

import pytest
from sqlalchemy import Connection, event, func, insert, select, text

from batchq import actions, engine
from batchq.spec import Job
from batchq.store import group, moves, topology
from batchq.store import server as servers
from batchq.store.columns import JOB, TASK
from batchq.store.moves import (
    aborting,
    claiming,
    dispatching,
    finishing,
    holding,
    retrying,
    settling,
    starting,
    ticketing,
    ticking,
)
from batchq.store.sql.statement import Statement
from batchq.store.tables import JobRow
from play import Play

MOVES = (aborting, claiming, dispatching, finishing, holding, retrying, settling, starting, ticketing, ticking)
NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
LARGE = ("batchq_task", "batchq_condition", "batchq_attempt", "batchq_run", "batchq_lane")
# Indexes that hold the few rows in motion only: to read one of them from end to end is no scan of the table.
SMALL = (
    *("batchq_task_ready", "batchq_task_out", "batchq_task_unsettled", "batchq_task_aside"),
    *("batchq_condition_open", "batchq_run_open", "batchq_run_moving", "batchq_run_retrying", "batchq_lane_open"),
)


def story(batch: Play) -> None:
    """All that happens to runs: success, error, retry, abort, hold, cancel, lost tickets, attempts and servers."""
    batch.server("AOS1", 2)
    batch.server("AOS2", 1, groups=["BG1"])
    job = Job("STORY")
    first = job.task("A", "demo.work", retries=1)
    second = job.task("B", "demo.work", after=first.finished, group="BG1")
    job.task("C", "demo.work", after=second.error.handles)
    job.task("D", "demo.work", after=first.success | second.success)
    for number in range(6):  # so many share their condition, and so many didn't run
        job.task(f"E{number}", "demo.work", after=second.finished)
        job.task(f"F{number}", "demo.work", after=second.error)
    batch.play(job, failing={"A"})
    run = batch.submit(job)
    batch.deliver()
    _, row = batch.at("A", run)
    assert batch.database.run(lambda tx: engine.abort(tx, row.id, row.token))
    batch.finish("A", ok=False, run=run)
    assert batch.verdict(run) == "error"
    run = batch.submit(job)
    batch.database.later(seconds=10)
    batch.tick()
    batch.deliver()
    name, row = batch.at("A", run)
    life = batch.workers[name].life
    batch.database.run(lambda tx: engine.recover_missing(tx, life, {row.token}, tx.now()))
    batch.workers[name].active.clear()
    batch.tick()
    batch.deliver()
    actions.hold_run(batch.database, run)
    actions.release_run(batch.database, run)
    actions.hold_run(batch.database, run)
    batch.cancel(run)
    batch.lose(name)
    batch.tick()
    actions.retry_run(batch.database, run, lost=True)
    batch.tick()
    batch.database.run(moves.runs_retrying)
    batch.cancel(run)
    batch.tick()
    assert not batch.database.run(moves.anything_open)
    assert batch.verdict(run) == "canceled"


def test_no_statement_of_a_whole_story_scans_a_large_table_on_sqlite(sqlite):
    sqlite.instant = NOON
    statements: list[str] = []

    @event.listens_for(sqlite.engine, "connect")
    def trace(connection, _):
        connection.set_trace_callback(statements.append)

    story(Play(sqlite))
    plans = {}
    with sqlite.read() as tx:
        for statement in dict.fromkeys(writers(statements)):
            rows = tx.connection.cursor().execute(f"EXPLAIN QUERY PLAN {statement}")
            plans[statement] = [row[3] for row in rows]
    assert len(plans) > 50
    assert not {
        (line, statement)
        for statement, plan in plans.items()
        for line in plan
        if line.startswith("SCAN") and line.split()[1] in LARGE and not line.endswith(SMALL)
    }


def writers(statements: list[str]) -> Iterator[str]:
    """What was done in writing transactions: the others are those of this test's own driver."""
    writes = False
    for statement in statements:
        if statement.startswith("BEGIN"):
            writes = statement == "BEGIN IMMEDIATE"
        elif writes and re.match(r"(SELECT|UPDATE|INSERT|DELETE)\b", statement):
            yield statement


def test_no_statement_of_a_whole_story_lacks_an_index_on_postgresql(postgresql):
    """Whether there is one: which plan is best for how many rows is the planner's business."""
    postgresql.instant = NOON
    seen: dict[str, object] = {}

    @event.listens_for(postgresql.engine, "before_cursor_execute")
    def keep(tx, cursor, statement, parameters, context, many):
        if tx.get_execution_options().get("batchq_writes") and not many:
            seen.setdefault(statement, parameters)

    story(Play(postgresql))
    statements = {statement for statement in seen if re.match(r"(SELECT|UPDATE|DELETE)\b", statement)}
    with postgresql.write() as tx:
        found = {statement: scans(tx, statement, seen[statement]) for statement in statements}
    assert len(found) > 10
    assert not {statement: scan for statement, scan in found.items() if scan}


def scans(tx: Connection, statement: str, parameters: object = None, *options: str) -> list[str]:
    """The large tables that PostgreSQL, kept from doing so, still reads from end to end for this statement."""
    forget_sweeps(tx)
    for way in ("seqscan", "hashjoin", "mergejoin"):
        tx.execute(text(f"SET LOCAL enable_{way} = off"))
    cursor = tx.connection.cursor()
    cursor.execute(f"EXPLAIN ({', '.join([*options, 'FORMAT JSON'])}) {statement}", parameters)
    (((plan,),),) = cursor.fetchall()
    return [f"{node['Node Type']} of {table(node)}" for node in nodes(plan["Plan"]) if reads_all(node)]


def forget_sweeps(tx: Connection) -> None:
    """Let PostgreSQL know of no table how many rows of which kind it holds, as in a database that is new.

    A sweep in an earlier test that found them empty, or with few rows, would let it think that there is nothing to be
    gained by an index.
    """
    tx.execute(text(f"LOCK TABLE {', '.join(LARGE)} IN SHARE UPDATE EXCLUSIVE MODE"))  # against sweeps from here on
    tx.execute(text("UPDATE pg_class SET relpages = 0, reltuples = -1 WHERE relname LIKE 'batchq%'"))
    tx.execute(text("DELETE FROM pg_statistic WHERE starelid::regclass::text LIKE 'batchq%'"))


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for part in plan.get("Plans", ()):
        yield from nodes(part)


def table(node: dict[str, Any]) -> str:
    return str(node.get("Relation Name") or node.get("Index Name"))


def reads_all(node: dict[str, Any]) -> bool:
    kind, index = node["Node Type"], node.get("Index Name")
    if kind == "Seq Scan" or table(node) not in LARGE:
        return table(node) in LARGE
    return "Index" in kind and "Index Cond" not in node and index not in SMALL


def prepared() -> dict[str, Statement]:
    return {
        f"{module.__name__.split('.')[-1]}.{name.strip('_').lower()}": value
        for module in (
            aborting,
            claiming,
            dispatching,
            finishing,
            retrying,
            settling,
            starting,
            ticketing,
            ticking,
            servers,
            group,
            topology,
        )
        for name, value in vars(module).items()
        if isinstance(value, Statement)
    }


def test_every_prepared_statement_has_an_index_for_every_large_table_on_postgresql(postgresql):
    with postgresql.write() as tx:
        found = {
            name: scans(tx, each.form(tx).sentence.sql.decode(), None, "GENERIC_PLAN")
            for name, each in prepared().items()
        }
    assert len(found) > 20
    assert not {name: scan for name, scan in found.items() if scan}


class Placed(NamedTuple):
    """A task, and the number of something that has no name in SQL."""

    id: int
    number: int


@pytest.mark.parametrize("columns", [(TASK.run_id, TASK.attempt), (TASK.id,), (TASK.id, TASK.attempt, TASK.offers)])
def test_a_row_whose_fields_are_not_the_columns_is_refused_when_its_module_is_imported(columns: tuple[Any, ...]):
    with pytest.raises(TypeError, match="Placed has the fields"):
        Statement(select(*columns), row=Placed)


def test_rows_are_of_the_class_that_was_given_and_a_column_without_a_name_takes_its_field(database):
    counted = Statement(select(JOB.id, func.count()).group_by(JOB.id), row=Placed)
    with database.write() as tx:
        tx.execute(insert(JobRow).values(name="ONE", definition="{}", updated_at=NOON))
        assert counted(tx) == [Placed(id=1, number=1)]
        assert isinstance(counted(tx)[0], Placed)
