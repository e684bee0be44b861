"""Servers as processes of their own on one database: no deadlock comes through, nothing runs twice or too much."""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from queue import Empty
from typing import Any

import psycopg
import pytest
from sqlalchemy import text

from batchq import engine
from batchq.core.ends import Success
from batchq.engine import Offer, Report
from batchq.spec import Job, JobSpec, TaskSpec
from batchq.store import moves
from batchq.store.sql.statement import send
from play import Clocked, Play, busy, check_counters

SPAWN = multiprocessing.get_context("spawn")
THREADS = 2
PATIENCE = 60.0  # seconds


def layers(depth: int, width: int) -> JobSpec:
    """Each task starts after all tasks of the layer before."""
    tasks = [
        TaskSpec(
            name=f"{layer}/{number}",
            run="demo.work",
            after=[f"{layer - 1}/{before}" for before in range(width)] if layer else [],
        )
        for layer in range(depth)
        for number in range(width)
    ]
    return JobSpec(name="LAYERS", tasks=tuple(tasks))


@dataclass
class Seen:
    """What one process did and saw; times are seconds of the machine's monotonic clock."""

    starts: list[tuple[str, int]] = field(default_factory=list)
    started: dict[str, float] = field(default_factory=dict)
    reported: dict[str, float] = field(default_factory=dict)
    most_out_and_executing: int = 0
    most_on_one_server: int = 0
    stale: int = 0


class ServerProcess:
    """A batch server that ends each task the moment it starts it; `mail` is the broker."""

    def __init__(self, batch: Play, name: str, run: int, mail: Any) -> None:
        self.batch, self.name, self.run, self.mail = batch, name, run, mail
        self.seen = Seen()
        batch.watch = self.watch

    def watch(self, tx: Any) -> None:
        out_and_executing, executing = busy(tx)
        self.seen.most_out_and_executing = max(self.seen.most_out_and_executing, out_and_executing)
        self.seen.most_on_one_server = max(self.seen.most_on_one_server, *executing.values(), 0)

    def work(self) -> Seen:
        """Claim and finish until the run has ended, which a message says."""
        worker = self.batch.workers[self.name]
        while True:
            reports = [Report(row.id, row.token, Success()) for row in worker.active.values()]
            self.seen.reported |= {row.name: time.monotonic() for row in worker.active.values()}
            offers = self.receive(block=not (reports or worker.parked))
            if offers is None:
                break
            self.batch.serve(self.name, reports, [*worker.parked, *offers])
            self.seen.started |= {row.name: time.monotonic() for row in worker.active.values()}
            self.send()
            if not worker.active and self.batch.verdict(self.run) != "executing":
                self.mail.put(None)
        self.seen.starts = [(start.task, start.attempt) for start in self.batch.starts]
        self.seen.stale = worker.stale
        return self.seen

    def send(self) -> None:
        """Publish what the last commit handed out, each ticket twice."""
        while self.batch.mail:
            ticket = self.batch.mail.popleft()
            offer = Offer(ticket.task, ticket.token, ticket.group)
            self.mail.put(offer)
            self.mail.put(offer)

    def receive(self, *, block: bool) -> list[Offer] | None:
        """The tickets that have come, at most one for each thread; None when the run has ended."""
        known = self.batch.workers[self.name].known
        offers: list[Offer] = []
        while len(offers) < THREADS:
            try:
                offer = self.mail.get(timeout=PATIENCE) if block and not offers else self.mail.get_nowait()
            except Empty:
                assert not block or offers, "no ticket came"
                return offers
            if offer is None:
                self.mail.put(None)
                return None
            if offer.token not in known:
                known.add(offer.token)
                offers.append(offer)
            block = False
        return offers


def be_server(url: str, name: str, run: int, mail: Any, answers: Any, together: Any) -> None:
    """What a process does: be a server until the run has ended, and then tell what it saw."""
    database = Clocked(url)
    try:
        batch = Play(database)
        batch.live(name)
        together.wait(PATIENCE)
        answers.put(ServerProcess(batch, name, run, mail).work())
    except BaseException as error:
        mail.cancel_join_thread()
        answers.put(repr(error))
        raise
    finally:
        database.dispose()


@pytest.fixture
def played(database):
    """Plays layers by so many processes, each a server of two threads; returns the run and what each of them saw."""
    mail, answers = SPAWN.Queue(), SPAWN.Queue()
    processes: list[Any] = []

    def play(job: JobSpec, servers: int) -> tuple[int, list[Seen]]:
        batch = Play(database)
        names = [f"AOS{number}" for number in range(1, servers + 1)]
        for name in names:
            batch.server(name, THREADS)
        run = batch.submit(job)
        for ticket in batch.mail:
            mail.put(Offer(ticket.task, ticket.token, ticket.group))
        url, together = database.url.render_as_string(hide_password=False), SPAWN.Barrier(servers)
        for name in names:
            processes.append(SPAWN.Process(target=be_server, args=(url, name, run, mail, answers, together)))
            processes[-1].start()
        seen = [answers.get(timeout=PATIENCE) for _ in names]
        for process in processes:
            process.join(PATIENCE)
        return run, seen

    yield play
    for process in processes:
        process.kill()
        process.join()
        process.close()
    for queue in (mail, answers):
        queue.cancel_join_thread()
        queue.close()


SIZES = {"sqlite": (2, 10, 10), "postgresql": (4, 20, 50)}  # servers, layers, tasks in each


def test_layers_played_by_many_processes_end_with_every_task_run_once_and_never_too_many(database, played):
    servers, depth, width = SIZES[database.kind]
    before = deadlocks(database)
    run, seen = played(layers(depth, width), servers)
    assert not [answer for answer in seen if isinstance(answer, str)]  # an error that came through

    starts = Counter(start for each in seen for start in each.starts)
    assert starts == {(f"{layer}/{number}", 1): 1 for layer in range(depth) for number in range(width)}
    assert max(each.most_out_and_executing for each in seen) == servers * THREADS
    assert max(each.most_on_one_server for each in seen) == THREADS
    assert sum(1 for each in seen if each.starts) == servers
    batch = Play(database)
    assert batch.verdict(run) == "success"
    assert set(batch.states(run).values()) == {"success"}
    assert_layers_followed_each_other(seen, depth)
    check_counters(database)
    assert deadlocks(database) == before


def assert_layers_followed_each_other(seen: list[Seen], depth: int) -> None:
    """No task started before all of the layer before had been reported."""
    started = {task: instant for each in seen for task, instant in each.started.items()}
    reported = {task: instant for each in seen for task, instant in each.reported.items()}
    for layer in range(1, depth):
        first = min(instant for task, instant in started.items() if task.startswith(f"{layer}/"))
        assert first > max(instant for task, instant in reported.items() if task.startswith(f"{layer - 1}/"))


def deadlocks(database) -> int:
    """How many deadlocks PostgreSQL had to break: locks are taken in one order, so none."""
    if database.kind == "sqlite":
        return 0
    with database.read() as tx:
        statement = text("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
        return int(tx.execute(statement).scalar_one())


def test_a_task_is_claimed_after_the_ends_it_waited_for_also_by_the_books(postgresql):
    """The report that waits for the run's lock while another end is stored, and then claims the successor."""
    batch = Play(postgresql)
    batch.server("AOS1")
    batch.server("AOS2")
    job = Job("PAIR")
    first, second = job.task("A", "demo.work"), job.task("B", "demo.work")
    job.task("C", "demo.work", after=first & second)
    run = batch.submit(job)
    batch.deliver()
    with postgresql.write() as tx:
        moves.lock_runs(tx, [run])
        send(tx)
        waiting = threading.Thread(target=batch.finish, args=["A"])
        waiting.start()
        wait_for_lock(postgresql)
        name, row = batch.at("B")
        report = Report(row.id, row.token, Success())
        engine.serve(tx, batch.workers[name].life, engine.Flush(reports=[report], active=0, pool=1000))
    waiting.join()
    assert batch.task(run, "C").claimed_at >= batch.task(run, "B").ended_at


def wait_for_lock(database: Clocked) -> None:
    """Return once a connection to the database waits for a lock."""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    address = database.url.render_as_string(hide_password=False).replace("+psycopg", "")
    with psycopg.connect(address, autocommit=True) as connection:
        while not connection.execute(waiting).fetchone()[0]:
            pass
