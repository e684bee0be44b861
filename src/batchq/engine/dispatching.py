"""Dispatch: the best ready tasks get tickets for free threads (rules 10-13, 16, 19, 28)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from batchq.core import admission
from batchq.core.limits import Lane, Units
from batchq.core.priority import AGING, CRITICAL, PRIORITY_NAMES, in_order
from batchq.store import moves
from batchq.store import topology as topologies
from batchq.store.lane import lanes_of
from batchq.store.moves import Occupancy, Peeked, Pile, Ready, Ticket
from batchq.store.topology import DispatchInput, Standing
from batchq.store.transaction import Tx


@dataclass(frozen=True, slots=True)
class Demand:
    """The input of dispatch and the oldest ready tasks of some piles, asked for under the dispatch lock.

    `topology` is the version at hand when it was asked for. Where the commit changed rows afterwards, `ended` counts
    the attempts that it ended on `server`, by their lanes.
    """

    input: DispatchInput
    peeked: Mapping[Pile, Peeked]
    topology: int
    server: int = 0
    ended: Mapping[int, int] = field(default_factory=dict)

    def after(self, server: int, ended: Mapping[int, int], ready: Sequence[Ready]) -> Demand:
        """The demand after changes that ended attempts on this server, by lane, and made tasks ready."""
        if not ready:
            return Demand(self.input, self.peeked, self.topology, server, ended)
        peeked = dict(self.peeked)
        for row in ready:
            if (seen := peeked.get(row.pile)) is not None:
                peeked[row.pile] = replace(seen, since=[*seen.since, row])
        return Demand(self.input.with_ready(row.pile for row in ready), peeked, self.topology, server, ended)

    @property
    def occupancy(self) -> Occupancy:
        """How many tasks each server executes, and how many of each lane execute or have tickets out."""
        found = self.input.occupancy
        for lane, number in self.ended.items():
            found.busy[self.server] = found.busy.get(self.server, 0) - number
            found.executing[lane] = found.executing.get(lane, 0) - number
        return found


@dataclass(frozen=True, slots=True)
class Chosen:
    """Ready tasks to hand out at this instant, best first; and how many of each group each server's threads answer."""

    now: datetime
    rows: Sequence[Ready] = ()
    shares: Mapping[int, Mapping[str, int]] = field(default_factory=dict)


def dispatch(tx: Tx, ahead: int = 0, unsendable: Collection[str] = (), aging: float = AGING) -> list[Ticket]:
    """ready → queued for the best tasks that free threads answer; returns their tickets (rules 10-13, 16, 19, 28, 29).

    A group whose tickets are `unsendable` gets none. A task that waits rises by a class each `aging` seconds.
    """
    chosen = choose(tx, ask(tx, {}), ahead, unsendable, aging)
    return moves.hand_out(tx, chosen.rows, chosen.now)


def ask(tx: Tx, likely: Mapping[Pile, int], now: datetime | None = None, *, standing: Standing | None = None) -> Demand:
    """Take the dispatch lock and ask for all that dispatch goes by; the statements travel with the next ones.

    Piles that are `likely` to be served are peeked at, so many tasks deep. Without `now` this is asked for before the
    instant is known.
    """
    topology = topologies.at_hand(tx)
    asked = topologies.dispatch_input(tx, topology.aside.tasks, standing)
    return Demand(asked, moves.peek(tx, likely, now, topology.aside.tasks), topology.version)


def choose(
    tx: Tx,
    demand: Demand,
    ahead: int,
    unsendable: Collection[str],
    aging: float = AGING,
    now: datetime | None = None,
) -> Chosen:
    """Choose the tasks to hand out, under the dispatch lock; a pile peeked at far enough is not asked for again.

    `now` is the instant, if the clock was read under the lock already.
    """
    now = now or tx.now()
    topology = topologies.current(tx, demand.input.version)
    busy, executing, tickets = demand.occupancy
    ready = demand.input.ready
    lanes = lanes_of(tx, {*ready, *tickets, *executing} if topology.has_limits else {*ready, *tickets})
    out = by_group(tickets, lanes)
    free = admission.free_threads(topology, busy, now, ahead)
    units = Units(topology, _in_use(lanes, tickets, executing) if topology.has_limits else {})
    open_lanes = [lanes[lane] for lane in ready if lanes[lane].group not in unsendable]
    matching = admission.Matching(topology, free, out)
    wanted = admission.lanes_wanted(open_lanes, matching, units, now)
    if not wanted:
        return Chosen(now)
    aside = topology.aside.tasks
    piles = {Pile(lane.id, each): wanted[lane] for lane in wanted for each in _classes(tx, lane.id, ready, aside)}
    rows = moves.ready(tx, piles, demand.peeked, now, aside)
    candidates = in_order(rows, now, aging) if len(piles) > 1 else rows
    long_ago = now - timedelta(seconds=aging or AGING)
    offered = ((row, lanes[row.lane], row.ready_at <= long_ago) for row in candidates)
    admitted = admission.choose(offered, matching, units)
    return Chosen(now, admitted.chosen, admitted.shares)


def by_group(tickets: Mapping[int, int], lanes: Mapping[int, Lane]) -> dict[str, int]:
    """Count tickets out by group."""
    out: dict[str, int] = {}
    for lane, number in tickets.items():
        group = lanes[lane].group
        out[group] = out.get(group, 0) + number
    return out


def _in_use(lanes: Mapping[int, Lane], *counts: Mapping[int, int]) -> Counter[Lane]:
    """Count, by lane, the tasks that have units."""
    used: Counter[Lane] = Counter()
    for count in counts:
        used.update({lanes[lane]: number for lane, number in count.items()})
    return used


def _classes(tx: Tx, lane: int, ready: Mapping[int, tuple[object, object]], aside: Collection[int]) -> Iterable[int]:
    """The own classes in which a task of the lane may be ready; raises ValueError for a task whose class is none."""
    lowest, highest = ready[lane]
    if isinstance(lowest, int) and isinstance(highest, int) and 0 <= lowest <= highest <= CRITICAL:
        return range(lowest, highest + 1)
    moves.refuse_odd(tx, lane, aside)
    return PRIORITY_NAMES


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
