"""The engine alone: what one commit of a server costs, where it is the only server, and beside hundreds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import click
import psutil

from batchq import Job, engine
from batchq.core.ends import Success
from batchq.engine import Flush, Life, Offer, Report
from batchq.server.life import this_life
from batchq.store import schema
from batchq.store import server as servers
from batchq.store import topology as topologies
from batchq.store.database import Database
from batchq.store.moves import Start
from batchq.store.transaction import Tx
from benchmarks import site
from benchmarks.compare import spread
from benchmarks.meter import cpu_seconds

THREADS = 4  # of each server
POOL = 200  # as the default setting has it
# Servers that begin to run together: to hand out to hundreds takes longer than PostgreSQL lets a session be silent.
AT_ONCE = 50


@dataclass
class Stage:
    """A database in which the threads of all servers execute tasks; the first server commits, and the others do not."""

    database: Database
    process: psutil.Process | None
    life: Life
    active: deque[Start]

    def commit(self) -> None:
        """Report the end of one task, and start the next on its thread."""
        ended = self.active.popleft()
        reports = [Report(ended.id, ended.token, Success("null"))]
        flush = Flush(reports=reports, active=len(self.active), pool=POOL, likely={ended.pile})
        served = self.database.run(engine.serve, self.life, flush)
        (started,) = served.own
        self.active.append(started)

    def batch(self, commits: int, counter: Counter) -> dict[str, float]:
        """CPU in milliseconds and round trips of one commit, on average."""
        database, trips, cpu = self._database_seconds(), counter.trips, time.thread_time()
        for _ in range(commits):
            self.commit()
        cpu_ms = (time.thread_time() - cpu) * 1000 / commits
        database_ms = (self._database_seconds() - database) * 1000 / commits
        found = {"cpu_ms": cpu_ms, "all_cpu_ms": cpu_ms + database_ms}
        return found | ({"round_trips": (counter.trips - trips) / commits} if self.process else {})

    def _database_seconds(self) -> float:
        return sum(cpu_seconds({"database": self.process}).values()) if self.process else 0.0


@dataclass
class Counter:
    """The number of round trips to PostgreSQL so far."""

    trips: int = 0


@contextmanager
def counted() -> Iterator[Counter]:
    """Count what goes to PostgreSQL: our own exchanges, and whatever SQLAlchemy and the driver send besides.

    Statements keep the function that sends them, so this comes before the first one of this process.
    """
    from batchq.store.sql import session, wire

    counter, exchange, wait = Counter(), wire.exchange, session.Session.wait

    def counting_exchange(*args: Any, **options: Any) -> Any:
        counter.trips += 1
        return exchange(*args, **options)

    def counting_wait(*args: Any, **options: Any) -> Any:
        counter.trips += 1
        return wait(*args, **options)

    wire.exchange, session.Session.wait = counting_exchange, counting_wait
    try:
        yield counter
    finally:
        wire.exchange, session.Session.wait = exchange, wait


def commit(number: int, commits: int, batches: int, postgresql: bool) -> dict[str, Any]:
    """Figures of a commit with one report that starts one task: of the only server, and beside `number` - 1 others.

    Batches of both take turns, in a database each; the first turn does not count.
    """
    with ExitStack() as stack:
        counter = stack.enter_context(counted()) if postgresql else Counter()
        folder = stack.enter_context(site.folder("batchq-bench-"))
        store = stack.enter_context(site.database(postgresql, folder))
        tasks = commits * (batches + 1)
        stages = {
            "one": stack.enter_context(staged(store, 1, tasks)),
            "many": stack.enter_context(staged(site.beside(store, "many"), number, tasks)),
        }
        runs: list[dict[str, dict[str, float]]] = []
        for turn in range(batches + 1):
            names = list(stages) if turn % 2 else list(reversed(stages))
            runs.append({name: stages[name].batch(commits, counter) for name in names})
            click.echo(f"commit: batch {turn} of {batches}, {_said(runs[-1])}", err=True)
    del runs[0]
    return {
        "servers": number,
        "threads": number * THREADS,
        **{name: {fact: spread([run[name][fact] for run in runs]) for fact in runs[0][name]} for name in stages},
        "many_to_one": {
            fact: spread([run["many"][fact] / run["one"][fact] for run in runs]) for fact in ("cpu_ms", "all_cpu_ms")
        },
    }


def _said(run: dict[str, dict[str, float]]) -> str:
    return ", ".join(f"{name} {run[name]['cpu_ms']:.2f} ms" for name in ("one", "many"))


def in_a_process(postgresql: bool) -> dict[str, Any]:
    """The figures of `python -m benchmarks commit`, run in a process of its own."""
    argv = [sys.executable, "-m", "benchmarks", "commit", *(["--postgres"] if postgresql else []), "-o", "json"]
    environment = {**os.environ, "PYTHONPATH": site.path()}
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=environment) as child:
        try:
            said, _ = child.communicate()
        except BaseException:
            # Not killed, as it has a PostgreSQL to stop.
            child.terminate()
            raise
    if child.returncode:
        raise click.ClickException(f"{' '.join(argv)}: exit code {child.returncode}")
    found: dict[str, Any] = json.loads(said)["commit"]
    return found


@contextmanager
def staged(store: site.Store, number: int, tasks: int) -> Iterator[Stage]:
    """A database with as many servers, all of whose threads execute; this many more tasks of their job are ready."""
    database = Database(store.url)
    try:
        schema.upgrade(database)
        job = Job("wide")
        for n in range(number * THREADS + tasks):
            job.task(f"t{n}", "noop", args=["", f"t{n}"])
        engine.submit(database, job.spec())
        working: list[tuple[Life, Sequence[Start]]] = []
        for first in range(0, number, AT_ONCE):
            working += _work(database, range(first, min(first + AT_ONCE, number)))
        (life, started), *_ = working
        yield Stage(database, store.process, life, deque(started))
    finally:
        database.dispose()


def _work(database: Database, places: range) -> Iterator[tuple[Life, Sequence[Start]]]:
    """Servers that begin to run now, each with the tasks that it has started on all of its threads."""
    lives = database.run(enlist, places)
    offers = handed_out(database)
    assert len(offers) == len(lives) * THREADS, "each thread should have got a ticket"
    for place, life in enumerate(lives):
        taken = offers[place * THREADS : (place + 1) * THREADS]
        served = database.run(engine.serve, life, Flush(offers=taken, active=0, pool=POOL))
        assert len(served.claimed) == THREADS, "each thread should have claimed a task"
        yield life, served.claimed


def enlist(tx: Tx, places: range) -> list[Life]:
    """Servers that run, all in the default group."""
    lives = []
    facts = this_life() | {"pool": POOL, "pool_kind": "prefork"}
    for place in places:
        name = f"Bench {place}"
        servers.create(tx, name, THREADS)
        row = servers.find(tx, name)
        assert row is not None
        lives.append(engine.take_over(tx, row.id, name, facts, tx.now()))
    topologies.changed(tx)
    return lives


def handed_out(database: Database) -> list[Offer]:
    """The tickets of all tasks that can start, as they arrive at servers."""
    offers: list[Offer] = []
    more = True
    while more:
        step = database.run(engine.advance)
        offers += [Offer(ticket.task, ticket.token, ticket.group) for ticket in step.tickets]
        more = step.more
    return offers
