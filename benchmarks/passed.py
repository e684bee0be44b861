"""A dispatch that passes over many tasks: those before the next one to start lack a unit of their limit."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import click

from batchq import Job, actions, engine
from batchq.core.priority import PRIORITIES
from batchq.engine import Flush, dispatching
from batchq.store import moves, schema
from batchq.store.database import Database
from batchq.store.transaction import Tx
from benchmarks import site
from benchmarks.commit import POOL, THREADS, enlist, handed_out
from benchmarks.compare import spread

LIMIT = "licence"
WAITING = 100  # tasks of no limit, which start in their turn


class Undone(Exception):
    """What was dispatched is taken back: the next turn finds the same."""


def passed(crowd: int, turns: int, postgresql: bool) -> dict[str, Any]:
    """Milliseconds of one dispatch with `crowd` tasks of a full limit before the next one, and without them.

    `look_ms` is its questions alone: which lanes have ready tasks, and which of these are the best. `all_ms` is the
    whole dispatch. Both take turns, in a database each.
    """
    with ExitStack() as stack:
        folder = stack.enter_context(site.folder("batchq-bench-"))
        store = stack.enter_context(site.database(postgresql, folder))
        databases = {
            "without": stack.enter_context(_filled(store, 0)),
            "behind": stack.enter_context(_filled(site.beside(store, "behind"), crowd)),
        }
        runs: list[dict[str, dict[str, float]]] = []
        for turn in range(turns + 1):
            names = list(databases) if turn % 2 else list(reversed(databases))
            runs.append({name: _timed(databases[name]) for name in names})
        del runs[0]
    found = {name: {fact: spread([run[name][fact] for run in runs]) for fact in runs[0][name]} for name in databases}
    ratios = {fact: found["behind"][fact]["median"] / found["without"][fact]["median"] for fact in found["behind"]}
    click.echo(", ".join(f"{fact} × {ratio:.2f}" for fact, ratio in ratios.items()), err=True)
    return found | {"ratio": ratios}


@contextmanager
def _filled(store: site.Store, crowd: int) -> Iterator[Database]:
    """A database with one server, on which one task has the only unit of the limit, for which the crowd is ready."""
    database = Database(store.url)
    try:
        schema.upgrade(database)
        actions.set_limit(database, LIMIT, 1)
        engine.submit(database, _job("taken", 1, limits=[LIMIT]).spec())
        (life,) = database.run(enlist, range(1))
        served = database.run(engine.serve, life, Flush(offers=handed_out(database), active=0, pool=POOL))
        assert len(served.claimed) == 1, "it should have the unit"
        engine.submit(database, _job("crowd", crowd + 1, limits=[LIMIT], priority="high").spec())
        engine.submit(database, _job("others", WAITING).spec())
        yield database
    finally:
        database.dispose()


def _job(name: str, tasks: int, **options: Any) -> Job:
    job = Job(name)
    for number in range(tasks):
        job.task(f"t{number}", "noop", **options)
    return job


def _timed(database: Database) -> dict[str, float]:
    """The times of a look and of a dispatch; the dispatch is taken back."""
    found: dict[str, float] = {}

    def act(tx: Tx) -> None:
        _look(tx)  # a connection is new after what is taken back, and its first statements take longer
        began = time.perf_counter()
        _look(tx)
        found["look_ms"] = (time.perf_counter() - began) * 1000
        began = time.perf_counter()
        tickets = dispatching.dispatch(tx)
        found["all_ms"] = (time.perf_counter() - began) * 1000
        assert tickets, "a task of no limit should have got a ticket"
        assert all(ticket.job == "others" for ticket in tickets), "the limit is full"
        raise Undone

    with suppress(Undone):
        database.run(act)
    return found


def _look(tx: Tx) -> None:
    lanes = dispatching.ask(tx, {}).input.ready
    moves.ready(tx, {moves.Pile(lane, PRIORITIES["normal"]): THREADS for lane in lanes}, {}, tx.now())
