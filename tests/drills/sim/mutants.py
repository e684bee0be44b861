"""Faults of the engine, each of which the simulation must find."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from sqlalchemy import bindparam, select, update

from batchq import aside
from batchq.actions import change, group
from batchq.actions.change import Step
from batchq.coordinator import Silence
from batchq.core import states
from batchq.core.states import State
from batchq.engine import finishing
from batchq.errors import BrokerUnreachable
from batchq.server import commit, life
from batchq.server.commit import Committer
from batchq.server.life import Machine
from batchq.store import moves
from batchq.store import server as servers
from batchq.store.columns import CONDITION, RUN, TASK, status_in_index
from batchq.store.moves import claiming, settling
from batchq.store.moves import finishing as outcomes
from batchq.store.sql.lists import among
from batchq.store.sql.statement import Statement
from batchq.store.tables import Run, TaskRow
from drills.sim.broker import Link


@contextmanager
def replaced(*changes: tuple[Any, str, Any]) -> Iterator[None]:
    """Put something else in the place of what the engine is made of."""
    with ExitStack() as stack:
        for place, name, other in changes:
            stack.enter_context(patch.object(place, name, other))
        yield


def claims_whatever_is_queued() -> AbstractContextManager[None]:
    """A claim that looks at the row's state, not at the token: any ticket of the task will do."""
    claim = Statement(
        update(TaskRow)
        .where(TASK.id == bindparam("task"), status_in_index(State.QUEUED))
        .values(
            status=State.EXECUTING.value,
            attempt=TASK.attempt + 1,
            server_id=bindparam("server"),
            epoch=bindparam("epoch_"),
            claimed_at=bindparam("now"),
        )
        .returning(TASK.id)
    )
    claimed = Statement(_granted().where(TASK.id == bindparam("task")), row=moves.Start)

    def any_ticket(tx: Any, tickets: Any, server: int, epoch: int, version: int, now: Any) -> Any:
        rows = []
        for task, token in tickets:
            if claim(tx, task=task, server=server, epoch_=epoch, now=now):
                rows += [row._replace(token=token) for row in claimed(tx, task=task)]
        return SimpleNamespace(rows=rows)

    return replaced((moves, "grant", any_ticket))


def takes_tickets_by_their_task_alone() -> AbstractContextManager[None]:
    """A ticket is good if its task executes here, whatever its token: a second copy starts the task again."""
    mine = Statement(
        _granted()
        .where(among(TASK.id, "tasks"), status_in_index(State.EXECUTING))
        .where(TASK.server_id == bindparam("server"), TASK.epoch == bindparam("epoch_")),
        row=moves.Start,
    )

    def by_task(tx: Any, tickets: Any, server: int, epoch: int, version: int, now: Any) -> Any:
        grant(tx, tickets, server, epoch, version, now)
        tokens = dict(tickets)
        rows = mine(tx, tasks=list(tokens), server=server, epoch_=epoch)
        return SimpleNamespace(rows=[row._replace(token=tokens[row.id]) for row in rows])

    grant = moves.grant
    return replaced((moves, "grant", by_task))


def _granted() -> Any:
    return select(*claiming._of_task, *claiming._of_run).join(Run, RUN.id == TASK.run_id)


def settles_without_the_guard() -> AbstractContextManager[None]:
    """Conditions that are resolved already are counted again when the rest of their task's are."""
    followers = (
        select(CONDITION.predecessor_id, CONDITION.task_id, CONDITION.outcome)
        .add_columns(TASK.status, TASK.joined, TASK.gate, TASK.pending, TASK.met, TASK.impossible, TASK.sharing)
        .add_columns(TASK.name, TASK.group_name, TASK.attempt, TASK.own_class)
        .join(TaskRow, TASK.id == CONDITION.task_id)
        .where(among(CONDITION.predecessor_id, "tasks"))
        .order_by(CONDITION.predecessor_id, CONDITION.task_id)
        .limit(bindparam("limit"))
    )
    return replaced((settling, "_FOLLOWERS", Statement(followers)))


def moves_only_who_keeps_the_conditions() -> AbstractContextManager[None]:
    """Tasks that share the conditions of another one stay behind when that one moves."""
    return replaced((moves, "move_sharing", lambda *_: SimpleNamespace(rows=[])))


def stores_outcomes_without_the_guard() -> AbstractContextManager[None]:
    """An outcome told twice ends its task twice, and its conditions count twice."""
    write_outcomes, locked = moves.write_outcomes, moves.locked

    def as_if_executing(tx: Any, tasks: Any) -> Any:
        return SimpleNamespace(rows=[row._replace(status=State.EXECUTING.value) for row in locked(tx, tasks).rows])

    def again(name: str) -> Any:
        stored = getattr(outcomes, name)
        twice = Statement(lambda given: stored.statement(given).prefix_with("OR REPLACE"), columns=stored.columns)
        return patch.object(outcomes, name, twice)

    def once_more(tx: Any, rows: Any, now: Any) -> None:
        with again("_ATTEMPT"), again("_FAILED"):
            write_outcomes(tx, rows, now)

    return replaced((moves, "locked", as_if_executing), (moves, "write_outcomes", once_more))


def gives_up_servers_that_live() -> AbstractContextManager[None]:
    """A server's attempts are lost after a moment's silence; its life goes on, and no epoch fences it off."""

    def impatient(self: Silence, running: list[Any], clock: float, read: float) -> list[tuple[int, str, int]]:
        self.seconds = 0.5
        return silent(self, running, clock, read)

    silent = Silence.of
    return replaced((servers, "lose", lambda *_: True), (Silence, "of", impatient))


def cancels_all_but_tickets() -> AbstractContextManager[None]:
    """A cancel that leaves out the tasks whose tickets are on their way."""
    return replaced((moves, "cancel_tasks", _without_tickets(moves.cancel_tasks)))


def _without_tickets(cancel: Any) -> Any:
    def others(tx: Any, tasks: Any, now: Any) -> int:
        out = set(moves.numbers_out(tx, State.QUEUED))
        return int(cancel(tx, [task for task in tasks if task not in out], now))

    return others


def holds_all_but_tickets() -> AbstractContextManager[None]:
    """A hold that leaves out the tasks whose tickets are on their way."""
    return replaced((moves, "take_tickets_back", lambda tx, tasks: None))


def releases_the_flag_alone() -> AbstractContextManager[None]:
    """A release that leaves the rows aside: nobody looks at them again."""
    return replaced((moves, "bring_back", lambda tx, run, limit: []))


def pauses_all_but_tickets() -> AbstractContextManager[None]:
    """A pause that takes no ticket back, and that servers hear of with the next change only."""

    def quietly(tx: Any, name: str, paused: bool) -> list[Step]:
        return [replace(step, topology=not paused) for step in pausing(tx, name, paused)]

    pausing = group._pausing
    return replaced((group, "_pausing", quietly))


def changes_without_telling() -> AbstractContextManager[None]:
    """Disable, threads, windows and bindings take no ticket back, and let servers go on by what they knew."""
    return replaced((change, "take_back", lambda *_: None))


def tries_once_too_often() -> AbstractContextManager[None]:
    """An attempt more than `retries` allows."""

    def generous(*, retries: int, **facts: Any) -> State:
        return states.after_attempt(retries=retries + 1, **facts)

    return replaced((finishing, "after_attempt", generous))


def drops_what_the_database_refuses() -> AbstractContextManager[None]:
    """One outcome that the database refuses, and all of the commit that it came with are forgotten."""

    def forgetful(self: Committer, batch: Any) -> Any:
        batch.reports = []
        return self._serve(batch)

    return replaced((Committer, "_commit_apart", forgetful))


def tries_what_the_database_refuses_for_ever() -> AbstractContextManager[None]:
    """A refusal of what is to be stored is taken for an outage: the whole commit is tried again, and again."""
    return replaced((commit, "of_content", lambda error: False))


def makes_failures_of_what_the_database_refuses() -> AbstractContextManager[None]:
    """A success whose result is refused becomes an error."""
    return replaced((aside, "bare", aside.refused))


def believes_host_and_pid() -> AbstractContextManager[None]:
    """Another container of the same host name is taken for this one: whoever is not seen there is dead."""

    def seen(row: Any, machine: Machine) -> bool | None:
        there = row.host == machine.host()
        return machine.exists(row.pid) if there else None

    return replaced((life, "seen_alive", seen))


def keeps_tickets_that_cannot_be_sent() -> AbstractContextManager[None]:
    """A ticket whose queue is refused counts as sent, and holds a thread that others could have."""

    def sent(self: Link, tickets: Any) -> list[Any]:
        publish(self, tickets)
        return []

    publish = Link.publish
    return replaced((Link, "publish", sent), (Link, "unsendable", frozenset()))


def stops_at_a_ticket_that_cannot_be_sent() -> AbstractContextManager[None]:
    """A refused queue is taken for a broker that is away: what comes behind it waits as well."""

    def stopping(self: Link, tickets: Any) -> list[Any]:
        for ticket in tickets:
            if publish(self, [ticket]):
                raise BrokerUnreachable(url="sim", reason="refused")
        return []

    publish = Link.publish
    return replaced((Link, "publish", stopping), (Link, "unsendable", frozenset()))


MUTANTS: list[Callable[[], AbstractContextManager[None]]] = [
    claims_whatever_is_queued,
    takes_tickets_by_their_task_alone,
    settles_without_the_guard,
    moves_only_who_keeps_the_conditions,
    stores_outcomes_without_the_guard,
    gives_up_servers_that_live,
    cancels_all_but_tickets,
    holds_all_but_tickets,
    releases_the_flag_alone,
    pauses_all_but_tickets,
    changes_without_telling,
    tries_once_too_often,
    drops_what_the_database_refuses,
    tries_what_the_database_refuses_for_ever,
    makes_failures_of_what_the_database_refuses,
    believes_host_and_pid,
    keeps_tickets_that_cannot_be_sent,
    stops_at_a_ticket_that_cannot_be_sent,
]
