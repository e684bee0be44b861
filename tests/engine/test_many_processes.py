"""Servers as processes of their own on one database: no deadlock comes through, nothing runs twice or too much."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from queue import Empty
from typing import Any

import psycopg
import pytest
from sqlalchemy import func, select

from batchq import engine
from batchq.engine import Offer, Report
from batchq.spec import JobSpec, TaskSpec
from batchq.store.moves import RUN, TASK
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
    """What one process did and saw."""

    starts: list[tuple[int, int]]
    most_out_and_executing: int
    most_on_one_server: int
    stale: int


class ServerProcess:
    """A batch server that ends each task the moment it starts it; `mail` is the broker, `threads` those of all."""

    def __init__(self, batch: Play, name: str, mail: Any) -> None:
        self.batch, self.name, self.mail = batch, name, mail
        self.seen = Seen([], 0, 0, 0)
        batch.watch = self.watch

    def watch(self, tx: Any) -> None:
        out_and_executing, executing = busy(tx)
        self.seen.most_out_and_executing = max(self.seen.most_out_and_executing, out_and_executing)
        self.seen.most_on_one_server = max(self.seen.most_on_one_server, *executing.values(), 0)

    def work(self) -> None:
        """Claim and finish until the run has ended, which a message says."""
        worker = self.batch.workers[self.name]
        while True:
            reports = [Report(row.id, row.token, ok=True) for row in worker.active.values()]
            offers = self.receive(block=not reports)
            if offers is None:
                break
            self.batch.serve(self.name, reports, [*worker.parked, *offers])
            while self.batch.mail:
                ticket = self.batch.mail.popleft()
                for _ in range(2):  # every ticket comes twice
                    self.mail.put(Offer(ticket.task, ticket.token, ticket.group))
        self.seen.starts = [(start.task, start.attempt) for start in self.batch.starts]
        self.seen.stale = worker.stale

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


def be_server(url: str, name: str, mail: Any, answers: Any) -> None:
    """What a process does: be a server until the run has ended, and then tell what it saw."""
    try:
        database = Clocked(url)
        batch = Play(database)
        batch.live(name)
        server = ServerProcess(batch, name, mail)
        server.work()
        database.dispose()
        answers.put(server.seen)
    except BaseException as error:
        answers.put(repr(error))
        raise
