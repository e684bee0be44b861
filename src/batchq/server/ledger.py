"""The ledger: claims and outcomes of one server, stored together in as few commits as they need (group commit).

Everything that arrives while a commit is under way joins the next one. While the database is away the ledger keeps
what it has, and tries again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from operator import methodcaller
from typing import TypeVar

from batchq import crash
from batchq.engine import Life, Offer, Report, Served
from batchq.server.commit import Batch, Committer
from batchq.server.linger import Linger
from batchq.server.outage import Outage
from batchq.server.refusals import Refusals
from batchq.server.sending import Outgoing
from batchq.server.surroundings import Arrival, Bearer, Surroundings
from batchq.server.tickets import LocalMessage
from batchq.store.moves import Start, Ticket

Item = TypeVar("Item")
# Time enough for the loop to see the timer, and to come round once more.
AT_ONCE_SECONDS = 0.0005


class Ledger:
    """One server's books, kept in the worker's event loop.

    `counts` has the number of tickets that arrived, and of their fates: `stale` ones were good no longer, `parked` ones
    had to wait for a thread, `returned` ones found none in time, and `refused` messages were no tickets.
    """

    def __init__(self, life: Life, around: Surroundings) -> None:
        self.fenced = False
        self.counts = {"arrived": 0, "stale": 0, "parked": 0, "returned": 0, "refused": 0}
        self.threads = 0
        self.has_room: Callable[[], object] | None = None
        self.acknowledge: Callable[[Bearer], object] = methodcaller("ack")
        self.broker_away = False  # tickets are kept until it is back
        self.active: dict[str, Arrival] = {}
        # Since when there are commits whose claims are not known here yet: under way, or unsure (monotonic seconds).
        self.began: float | None = None
        self._around = around
        self._hub, self._monotonic, self._settings = around.hub, around.monotonic, around.settings
        self._committer = Committer(life, around)
        self._outgoing = Outgoing(around.publisher, around.monotonic)
        self._refusals = Refusals(around.monotonic)
        self._outage = Outage(around.monotonic, around.uniform)
        self._linger = Linger(around.hub.call_later, self.flush, around.monotonic)
        self._under_way: tuple[Batch, Future[tuple[Served | None, Exception | None]]] | None = None
        self._arrivals: deque[Arrival] = deque()
        self._parked: list[Arrival] = []
        self._parked_before: set[str] = set()
        self._reports: deque[tuple[Arrival, Report]] = deque()
        self._tokens: set[str] = set()
        self._more_to_settle = False
        self._woken = False
        self._committing = False

    # --- what comes in --------------------------------------------------------------------------------------

    def offer(self, arrival: Arrival) -> None:
        """Take a ticket in; a second copy of one that is here already is dropped."""
        token = arrival.offer.token
        self.counts["arrived"] += 1
        if token in self._tokens:
            self.counts["stale"] += 1
            self.acknowledge(arrival.message)
            return
        self._tokens.add(token)
        self._arrivals.append(arrival)
        self.wake()

    def report(self, arrival: Arrival, report: Report) -> None:
        """Take in how an attempt ended; only the first report of an attempt counts. Callable from any thread."""
        if self.active.pop(report.token, None) is not None:
            self._reports.append((arrival, report))
            self._linger.ended(report.token)
            crash.point("outcome-received")
            self.wake()

    @property
    def life(self) -> Life:
        """The life under which this server commits."""
        return self._committer.life

    def has(self, token: str) -> bool:
        """Whether the attempt of this token is here, in whatever state."""
        return token in self._tokens

    def waits(self, token: str) -> bool:
        """Whether a ticket of this token is here whose attempt has not begun."""
        return token in self._tokens and any(
            arrival.offer.token == token for arrival in (*self._arrivals, *self._parked)
        )

    @property
    def room(self) -> int:
        """How many more tickets this server could use now."""
        return self.threads + self._settings.tickets_ahead - len(self._tokens)

    @property
    def commits(self) -> bool:
        """Whether a commit is under way, which may yet bring attempts to start."""
        return self._committing

    @property
    def idle(self) -> bool:
        """Whether nothing is left to store."""
        return not (self._reports or self._refusals or self._committing)

    def unstored(self) -> list[str]:
        """The ids of tasks whose outcomes are known here and not stored yet."""
        return [str(report.task) for report in (*(each for _, each in self._reports), *self._refusals.reports)]

    # --- commits --------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """See to it that a commit happens soon."""
        if not self._woken:
            self._woken = True
            self._hub.call_soon(self.flush)

    def flush(self) -> None:
        """Begin a commit of all that is here, unless one is under way or the database is being waited for."""
        self._woken = False
        if self._committing or self.fenced or self._outage.lasts or self._linger.lasts():
            return
        batch = self._take()
        if batch is None:
            return
        self._committing = True
        if not self._outage.unsure:
            self.began = batch.began
        if self._around.beside is None:
            self._ended(batch, *self._committer.commit(batch))
        else:
            self._under_way = batch, self._around.beside.submit(self._committer.commit, batch)
            self._under_way[1].add_done_callback(lambda _: self._hub.call_soon(self._join))

    def _join(self) -> None:
        """Take in a commit that has ended beside the loop. `look_again` calls it too, as a loop may lose a callback."""
        if self._under_way is None or not self._under_way[1].done():
            return
        (batch, future), self._under_way = self._under_way, None
        self._ended(batch, *future.result())
        if self._woken:
            self.flush()

    def _take(self) -> Batch | None:
        """The next commit's content, or None; parked tickets come along, or alone once they waited too long."""
        late = self._monotonic() - self._settings.ticket_patience_seconds
        # Counted before the reports are taken: an attempt that reports after that stands in the books as executing,
        # with its thread, until the next commit.
        batch = Batch(more_to_settle=self._more_to_settle, active=len(self.active))
        batch.reports = list(_drained(self._reports))
        batch.overdue = [arrival for arrival in self._parked if arrival.since <= late]
        batch.alone = self._refusals.due()
        if not (batch.reports or batch.overdue or batch.more_to_settle or batch.alone or self._arrivals):
            return None
        batch.arrivals = [arrival for arrival in self._parked if arrival.since > late]
        batch.arrivals += _drained(self._arrivals)
        self._parked.clear()
        self._more_to_settle = False
        batch.tokens_here = frozenset(self._tokens) if self._outage.unsure else None
        batch.began = self._monotonic()
        return batch

    def _ended(self, batch: Batch, served: Served | None, error: Exception | None) -> None:
        self._committing = False
        if error is None:
            self._tokens.difference_update(self._refusals.stored(batch))
        self._refusals.keep(batch)
        if served is None:
            self._put_back(batch)
            self._hub.call_later(self._outage.postpone(error) * 1.1, self.flush)
        elif served.fenced:
            self.fenced = True
            self._put_back(batch)
        elif self._monotonic() - batch.began > self._settings.lost_seconds / 2:
            self._ask_again(batch, served)
        else:
            self._outage.end()
            self._carry_out(batch, served)
        if not self._outage.unsure:
            self.began = None
        if self._reports or self._arrivals or self._more_to_settle:
            # kombu's loop polls before it runs a callback that a callback queued, so `wake` would wait for an event.
            # A timer cuts that poll short, unless it is due already: then it is run, and the poll waits all the same.
            self._hub.call_later(AT_ONCE_SECONDS, self.flush)
        if self.has_room is not None and self.room > 0:
            self.has_room()

    def _ask_again(self, batch: Batch, served: Served) -> None:
        """Start nothing on an answer that is so old: this process stood still, and may count as lost by now."""
        self._outage.unsure = True
        self._send(served.advance.tickets)
        self._put_back(batch)
        self.wake()

    def _put_back(self, batch: Batch) -> None:
        self._reports.extendleft(reversed(batch.reports))
        self._arrivals.extendleft(reversed(batch.arrivals + batch.overdue))
        self._more_to_settle = self._more_to_settle or batch.more_to_settle

    # --- what a commit brought about ------------------------------------------------------------------------

    def _carry_out(self, batch: Batch, served: Served) -> None:
        parked = {offer.token for offer in served.parked}
        self.counts["stale"] += served.stale
        self.counts["parked"] += len(parked - self._parked_before)
        self.counts["returned"] += len(batch.overdue)
        self._parked_before = parked
        self.threads = served.threads
        own, claimed = served.own, {row.token: row for row in served.claimed}
        self._linger.started({row.token for row in own} | set(claimed))
        if batch.reports:
            crash.point("finish-committed")
        self._begin_own(own)
        self._begin(batch.arrivals, claimed, parked)
        self._send(served.advance.tickets)
        self._tokens.difference_update(report.token for _, report in batch.reports)
        for arrival in batch.overdue:
            self._drop(arrival)
        self._more_to_settle = self._more_to_settle or served.advance.more

    def _begin_own(self, rows: Sequence[Start]) -> None:
        """Start what this server handed to itself, as if its message had come."""
        for row in rows:
            arrival = Arrival(Offer.of(row), LocalMessage(), self._monotonic())
            self._tokens.add(row.token)
            self.active[row.token] = arrival
            crash.point("claim-committed")
            self._around.start(arrival, row)

    def _begin(self, arrivals: Sequence[Arrival], claimed: Mapping[str, Start], parked: Collection[str]) -> None:
        for arrival in arrivals:
            token = arrival.offer.token
            if token in claimed:
                row = claimed[token]
                self.active[token] = arrival = replace(arrival, offer=Offer.of(row))
                crash.point("claim-committed")
                self._around.start(arrival, row)
                crash.point("attempt-started")
                # From the claim on the row has the truth; and a broker may not wait for hours (RabbitMQ: 30 min).
                self.acknowledge(arrival.message)
            elif token in parked:
                self._parked.append(arrival)  # its row stays queued, so that a cancel wins
            else:
                self._drop(arrival)

    def _drop(self, arrival: Arrival) -> None:
        self._tokens.discard(arrival.offer.token)
        self.acknowledge(arrival.message)

    def _send(self, tickets: Sequence[Ticket]) -> None:
        refused = self._outgoing.send(tickets, broker_away=self.broker_away)
        if refused:
            # Now, or in turn: before the commit that hands their threads out.
            if self._around.beside is None:
                self._committer.give_back(refused)
            else:
                self._around.beside.submit(self._committer.give_back, refused)
            self.go_on()

    def look_again(self) -> None:
        """Once a second: tickets that could not be sent, and parked ones that grew too old."""
        self._join()
        if self._outgoing:
            self._send(())
        if self._arrivals or self._reports or self._parked or self._refusals.due():
            self.flush()

    def go_on(self) -> None:
        """More may start than before: hand out what is ready, without waiting for anybody's tick."""
        if self._settings.fast_path:
            self._more_to_settle = True
            self.wake()

    def store_only(self) -> None:
        """A newer version has the database: store outcomes, and leave everything else to it."""
        self._committer.outdated = True

    def begin_life(self, life: Life) -> None:
        """Go on under a new epoch; what the old one left unstored is refused, and counted."""
        self._committer.life = life
        self.fenced = self._outage.unsure = False
        self.wake()

    def close(self, *, wait: bool = True) -> None:
        """End the thread of the commits, and `wait` for the one that is under way."""
        if self._around.beside is not None:
            self._around.beside.shutdown(wait=wait)


def _drained(queue: deque[Item]) -> Iterator[Item]:
    """Everything in the queue, oldest first; pool threads may add to it meanwhile."""
    while queue:
        yield queue.popleft()
