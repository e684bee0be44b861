"""`batchq check`: every problem of the set-up at once (rule 15)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

import click

from batchq import clock, views
from batchq.cli.context import batch, database
from batchq.cli.output import output_option, print_json, say
from batchq.cli.override import told_zone
from batchq.cli.wording import told
from batchq.core.aborting import THREADS, unfit_pool
from batchq.errors import BatchqError, BrokerUnreachable, QueueRefused
from batchq.escape import printable
from batchq.store import broken
from batchq.store.failures import of_content, why
from batchq.store.lane import open_lanes
from batchq.store.sql import file

if TYPE_CHECKING:
    from batchq.app import BatchQ
    from batchq.store.database import Database
    from batchq.views import GroupView

T = TypeVar("T")

ANSWER_SECONDS = 1.0
MOST_LANES = 1_000  # that dispatch looks at in little time
# The power of anybody who reaches the broker, by BATCHQ_REMOTE_CONTROL.
_REACHES = {
    "all": "can stop servers and coordinators, and change their pools and queues, by Celery's remote control",
    "inspect": "can drop and delay tickets and see what runs, but neither start nor stop anything",
    "off": "can drop and delay tickets, but asks servers and coordinators in vain: check cannot see them either",
}


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
        problems += _tried(problems, lambda: _of_rows(opened)) or []
    before = len(problems)
    _tried(problems, joined.check_broker)
    if len(problems) == before:
        problems += _of_coordinators(joined)
        problems += _tried(problems, lambda: list(_of_queues(joined, opened))) or []
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
    """The result of `act`, or None with its error among the problems."""
    try:
        return _read_twice(act)
    except BatchqError as error:
        problems.append(told(error))
    except Exception as error:
        if not of_content(error):
            raise
        problems.append(f"Not all that is stored can be read ({why(error)}).")
    return None


def _read_twice(act: Callable[[], T]) -> T:
    """The result of `act`; a second call reads the bytes, if the first fails because they are no text."""
    try:
        return act()
    except Exception as error:
        if not of_content(error):
            raise
    return act()


def _of_deleted_files(named: Database) -> Iterator[str]:
    """Name the processes that hold SQLite's file open after it was deleted, from /proc."""
    for pid in file.holders(named.file) if named.file is not None else ():
        files = f"{named.file}, or its -wal or -shm"
        yield f"Process {pid} works on a file that was deleted or replaced ({files}): what it stores is lost. Stop it."


def _of_damage(opened: Database) -> Iterator[str]:
    if opened.file is None:
        return
    with opened.read() as tx:
        if damage := file.damage(tx, opened.file):
            yield f"The database {opened.file} is damaged ({damage}). {file.MENDED}"


def _of_servers(opened: Database) -> Iterator[str]:
    with opened.read() as tx:
        servers = views.servers(tx)
        problems = views.setup_problems(tx, timezone=told_zone()) if servers else []
    if not servers:
        yield "There are no batch servers. `batchq server start NAME` starts one."
    elif all(server["state"] in ("stopped", "lost") for server in servers):
        yield f"None of the batch servers runs: {', '.join(server['name'] for server in servers[:5])}."
    yield from problems


def _of_rows(opened: Database) -> list[str]:
    with opened.read() as tx:
        return list(broken.broken(tx))


def _of_coordinators(joined: BatchQ) -> Iterator[str]:
    """Ask all workers for their queues: a coordinator is a worker on the coordinators' queue, stored nowhere."""
    if joined.settings.obeys == "off":
        return  # coordinators answer nobody
    joined.lead_to_broker(writes=True)
    answers = joined.app.control.inspect(timeout=ANSWER_SECONDS).active_queues() or {}
    queues = {queue["name"] for worker in answers.values() for queue in worker}
    if joined.settings.coordinator_queue not in queues:
        yield "No coordinator runs: what is lost stays lost. `batchq coordinator` starts one."


def _of_queues(joined: BatchQ, opened: Database | None) -> Iterator[str]:
    """Ask the broker about each queue, and name the queues that it refuses."""
    groups = []
    if opened is not None:
        with opened.read() as tx:
            groups = views.groups(tx)
    settings = joined.settings
    # To make a queue for a group without work would leave it on the broker for nothing.
    queues = [(f"Group {each['group']}", settings.queue(each["group"]), _has_work(each)) for each in groups]
    for who, queue, make in [*queues, ("The coordinators", settings.coordinator_queue, False)]:
        try:
            joined.publisher.try_queue(queue, make=make)
        except BrokerUnreachable:
            return
        except QueueRefused as error:
            yield f"{who}: what is sent there cannot arrive. {told(error)}"


def _has_work(group: GroupView) -> bool:
    return bool(group["ready"] or group["queued"])


def _notes(joined: BatchQ, opened: Database | None) -> Iterator[str]:
    if not joined.settings.ticket_key:
        yield "Tickets are not signed, as BATCHQ_TICKET_KEY is empty: the broker must be trusted."
    yield f"Whoever reaches the broker {_REACHES[joined.settings.obeys]} (BATCHQ_REMOTE_CONTROL)."
    if joined.settings.allow_shell:
        yield "shell.run is switched on (BATCHQ_ALLOW_SHELL): a job may run any program as the servers' user."
    if os.environ.get(clock.VARIABLE):
        pace = f"it shows {clock.now():%Y-%m-%d %H:%M:%S} UTC and runs {clock.clock().scale:g} times as fast"
        yield f"The clock is not the world's, as {clock.VARIABLE} is set: {pace}. That is for tests only."
    if opened is None:
        return
    with opened.read() as tx:
        servers, groups, limits, lanes = views.servers(tx), views.groups(tx), views.limits(tx), open_lanes(tx)
    for group in groups:
        if group["paused"]:
            name = group["group"]
            yield f"Group {name} is paused: nothing of it starts. `batchq group resume {name}` lets it go on."
    for limit in limits:
        name = limit["limit"]
        if not limit["units"]:
            yield f"Limit {name} has no units: nothing that names it starts. `batchq limit set {name} 1` lets it go on."
        elif not (limit["jobs"] or limit["in_use"] or limit["waiting"]):
            yield f"Limit {name} is named by no job."
    if lanes > MOST_LANES:
        yield f"Open runs and limits make {lanes:,} kinds of tasks that dispatch tells apart: each start takes longer."
    for server in servers:
        if server["pool_kind"] == THREADS:
            shared = "one that ends the process, or changes its limits, signals or folder, does so for all"
            name = server["name"]
            yield f"Server {name} runs tasks in threads: they can be neither aborted nor timed out, and {shared}."
        elif unfit := unfit_pool(server["pool_kind"], server["name"]):
            yield f"Tasks of server {server['name']} cannot be aborted: {unfit}."
