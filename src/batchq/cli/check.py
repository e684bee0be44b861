"""`batchq check`: every problem of the set-up at once (rule 15)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

import click

from batchq import clock
from batchq.cli.context import batch, database
from batchq.cli.output import output_option, print_json, say
from batchq.errors import BatchqError
from batchq.escape import printable

if TYPE_CHECKING:
    from batchq.app import BatchQ
    from batchq.store.database import Database

T = TypeVar("T")

ANSWER_SECONDS = 1.0


@click.command()
@output_option
def check(output: str) -> None:
    """Print every problem of the set-up at once.

    Exits with 1 if there is one. Notes are worth knowing, and no problem.
    """
    problems: list[str] = []
    joined = batch()
    problems += _of_deleted_files(joined.database)
    opened = _tried(problems, database)
    if opened is not None:
        problems += _tried(problems, lambda: [*_of_damage(opened), *_of_servers(opened)]) or []
    before = len(problems)
    _tried(problems, joined.check_broker)
    if len(problems) == before:
        problems += _of_coordinators(joined)
    notes = _tried(problems, lambda: list(_notes(joined, opened))) or []
    if output == "json":
        print_json({"problems": problems, "notes": notes})
    else:
        for line in problems:
            say(f"problem: {printable(line)}")
        for line in notes:
            say(f"note: {printable(line)}")
        say(f"Problems: {len(problems)}." if problems else "No problems.")
    if problems:
        raise click.exceptions.Exit(1)


def _tried(problems: list[str], act: Callable[[], T]) -> T | None:
    """What `act` returns, or None with its error among the problems."""
    try:
        return act()
    except BatchqError as error:
        problems.append(str(error))
        return None


def _of_deleted_files(named: Database) -> Iterator[str]:
    """Who still works on SQLite's file after it was deleted; only the processes know of it, so they are looked at."""
    from batchq.store import sqlite

    for pid in sqlite.holders(named.file) if named.file is not None else ():
        files = f"{named.file}, or its -wal or -shm"
        yield f"Process {pid} works on a file that was deleted or replaced ({files}): what it stores is lost. Stop it."


def _of_damage(opened: Database) -> Iterator[str]:
    from batchq.store import sqlite

    if opened.file is None:
        return
    with opened.read() as tx:
        if damage := sqlite.damage(tx, opened.file):
            yield f"The database {opened.file} is damaged ({damage}). {sqlite.MENDED}"


def _of_servers(opened: Database) -> Iterator[str]:
    from batchq.store import views

    with opened.read() as tx:
        servers = views.servers(tx)
        problems = views.problems(tx) if servers else []
    if not servers:
        yield "There are no batch servers. `batchq server start NAME` starts one."
    elif all(server["state"] in ("stopped", "lost") for server in servers):
        yield f"None of the batch servers runs: {', '.join(server['name'] for server in servers[:5])}."
    yield from problems


def _of_coordinators(joined: BatchQ) -> Iterator[str]:
    """A coordinator is a worker on the coordinators' queue: the workers are asked, as only they know."""
    answers = joined.app.control.inspect(timeout=ANSWER_SECONDS).active_queues() or {}
    queues = {queue["name"] for worker in answers.values() for queue in worker}
    if joined.settings.coordinator_queue not in queues:
        yield "No coordinator runs: what is lost stays lost. `batchq coordinator` starts one."


def _notes(joined: BatchQ, opened: Database | None) -> Iterator[str]:
    from batchq.store import views

    if not joined.settings.ticket_key:
        yield "Tickets are not signed, as BATCHQ_TICKET_KEY is empty: the broker must be trusted."
    if joined.settings.shell:
        yield "shell.run is switched on (BATCHQ_SHELL): a job may run any program as the servers' user."
    if os.environ.get(clock.VARIABLE):
        pace = f"it shows {clock.now():%Y-%m-%d %H:%M:%S} UTC and runs {clock.clock().scale:g} times as fast"
        yield f"The clock is not the world's, as {clock.VARIABLE} is set: {pace}. That is for tests only."
    if opened is None:
        return
    with opened.read() as tx:
        servers, groups = views.servers(tx), views.groups(tx)
    for group in groups:
        if group["paused"]:
            name = group["group"]
            yield f"Group {name} is paused: nothing of it starts. `batchq group resume {name}` lets it go on."
    for server in servers:
        if server["pool_kind"] == "threads":
            yield f"Server {server['name']} runs tasks in threads: they can be neither aborted nor timed out."
