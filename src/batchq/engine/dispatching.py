"""Dispatch: the best ready tasks get tickets for free threads (rules 10-13, 16, 19, 28)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from batchq.core import admission
from batchq.store import moves
from batchq.store import topology as topologies
from batchq.store.moves import Peeked, Ready, Ticket
from batchq.store.topology import DispatchInput, Standing
from batchq.store.transaction import Tx


@dataclass(frozen=True, slots=True)
class Demand:
    """The input of dispatch and the best ready tasks of some groups, asked for under the dispatch lock.

    `topology` is the version at hand when it was asked for. Where the commit changed rows afterwards, `ended` is how
    many attempts it ended on `server`.
    """

    input: DispatchInput
    peeked: Mapping[str, Peeked]
    topology: int
    server: int = 0
    ended: int = 0

    def after(self, server: int, ended: int, ready: Sequence[Ready]) -> Demand:
        """The demand after changes that ended attempts on this server, and made tasks ready."""
        peeked = dict(self.peeked)
        for row in ready:
            if (seen := peeked.get(row.group_name)) is not None:
                peeked[row.group_name] = replace(seen, since=[*seen.since, row])
        return Demand(self.input.with_ready(row.group_name for row in ready), peeked, self.topology, server, ended)

    @property
    def busy(self) -> tuple[dict[int, int], dict[str, int]]:
        """How many tasks each server executes, and how many tickets of each group are out."""
        busy, out = self.input.occupancy
        return busy | {self.server: busy.get(self.server, 0) - self.ended}, out


@dataclass(frozen=True, slots=True)
class Chosen:
    """Ready tasks to hand out at this instant, best first; and how many of each group each server's threads answer."""

    now: datetime
    rows: Sequence[Ready] = ()
    shares: Mapping[int, Mapping[str, int]] = field(default_factory=dict)


def dispatch(tx: Tx, ahead: int = 0, unsendable: Collection[str] = ()) -> list[Ticket]:
    """ready → queued for the best tasks that free threads answer; returns their tickets (rules 10-13, 16, 19, 28).

    A group whose tickets are `unsendable` gets none.
    """
    chosen = choose(tx, ask(tx, {}), ahead, unsendable)
    return moves.hand_out(tx, chosen.rows, chosen.now)


def ask(tx: Tx, likely: Mapping[str, int], now: datetime | None = None, *, standing: Standing | None = None) -> Demand:
    """Take the dispatch lock and ask for all that dispatch goes by; the statements travel with the next ones.

    Groups that are `likely` to be served are peeked at, so many tasks deep. Without `now` this is asked for before the
    instant is known.
    """
    topology = topologies.at_hand(tx)
    asked = topologies.dispatch_input(tx, topology.aside.tasks, standing)
    return Demand(asked, moves.peek(tx, likely, now, topology.aside.tasks), topology.version)


def choose(tx: Tx, demand: Demand, ahead: int, unsendable: Collection[str], now: datetime | None = None) -> Chosen:
    """Choose the tasks to hand out, under the dispatch lock; a group peeked at far enough is not asked for again.

    `now` is the instant, if the clock was read under the lock already.
    """
    now = now or tx.now()
    topology = topologies.current(tx, demand.input.version)
    busy, out = demand.busy
    free = admission.free_threads(topology, busy, now, ahead)
    ready = [group for group in demand.input.ready if group not in unsendable]
    wanted = admission.candidates_wanted(ready, out, topology, free)
    if not wanted:
        return Chosen(now)
    candidates = moves.ready(tx, wanted, demand.peeked, now, topology.aside.tasks)
    admitted = admission.admit([(row, row.group_name) for row in candidates], out, topology, free)
    return Chosen(now, admitted.chosen, admitted.shares)


def follow_clock(tx: Tx, now: datetime, aside: Collection[int] = (), alone: Collection[int] | None = None) -> int:
    """Bring forward the ready tasks that wait only because the clock was set back; returns their number."""
    rows: list[dict[str, object]] = []
    for row in moves.not_before(tx, now, aside, alone):
        # Of what an older process put off, only the task's own delay is known.
        usual = row.retry_delay if row.attempt else 0
        due = now + timedelta(seconds=usual if row.retry_after is None else row.retry_after)
        if row.ready_at > due:
            rows.append({"task": row.id, "standing": row.ready_at, "due": due})
    return moves.hasten(tx, rows)
