"""The ledger: claims and outcomes of one server, stored together in as few commits as they need (group commit).

While one transaction is under way, everything that arrives joins the next one. A database that is away makes
the ledger wait and try again; what it holds is kept until it is stored.
"""

from __future__ import annotations

import logging
import random
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from batchq import aside, crash, engine
from batchq.config import Settings
from batchq.engine import Life, Offer, Report, Served
from batchq.errors import BrokerUnreachable, DatabaseUnreachable
from batchq.server.publisher import Publisher
from batchq.server.tickets import LocalMessage
from batchq.store import moves, trouble
from batchq.store.database import Database, of_content, why
from batchq.store.moves import Ticket
from batchq.store.trouble import LONGEST_SECONDS, What

logger = logging.getLogger(__name__)

RETRY_SECONDS = 0.05
# An error that nobody reckoned with is hardly gone in a moment.
UNKNOWN_SECONDS = 0.5
# What was started together and ends together is stored together: so long the first report waits for the others,
# if they were started no longer ago than that.
LINGER_SECONDS = 0.001
FRESH_SECONDS = 0.005
# Time enough for the loop to reckon with it, and to come round once more.
AT_ONCE_SECONDS = 0.0005
# To ask a broker that hangs takes a while, in which the loop sees to nothing else: it is asked so seldom.
UNSENT_SECONDS = 1.0
MOST_UNSENT = 1000
# Another writer that holds SQLite's lock for a moment is nothing to write home about.
QUIET_SECONDS = 2.0


class Hub(Protocol):
    """What the ledger needs of the worker's event loop."""

    def call_soon(self, callback: Callable[[], object]) -> object: ...

    def call_later(self, delay: float, callback: Callable[[], object]) -> object: ...


def _acknowledge(message: Any) -> None:
    """Tell the broker that a message is done with, where nobody minds the connection it came by."""
    message.ack()


@dataclass(slots=True, eq=False)
class Arrival:
    """A ticket that came in: its offer, its message, and since when it waits (monotonic seconds)."""

    offer: Offer
    message: Any
    since: float


@dataclass(slots=True)
class Batch:
    """What goes into one commit."""

    reports: list[tuple[Arrival, Report]] = field(default_factory=list)
    arrivals: list[Arrival] = field(default_factory=list)
    overdue: list[Arrival] = field(default_factory=list)
    again: bool = False
    active: int = 0
    known: frozenset[str] | None = None
    began: float = 0.0
    # Outcomes that were refused before, to be tried by themselves; and the tokens of those that are refused now.
    alone: list[tuple[Arrival, Report]] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)


@dataclass(slots=True)
class Refused:
    """An outcome that the database refuses, and when it is tried again (monotonic seconds)."""

    arrival: Arrival
    report: Report
    due: float
    pause: float = 1.0


class Ledger:
    """One server's books, kept in the worker's event loop.

    `start` is called with each granted arrival and its row, and puts the attempt into the pool, which has room
    for `pool()` at once. `counts` tells what came of the tickets that arrived: `stale` ones were good no longer,
    `parked` ones had to wait for a thread, `returned` ones found none in time, and `refused` messages were no tickets.
    With `beside` the commits run in a thread of their own, so that a slow database never stalls the loop.
    """

    def __init__(
        self,
        database: Database,
        life: Life,
        settings: Settings,
        publisher: Publisher,
        hub: Hub,
        start: Callable[[Arrival, Any], None],
        *,
        pool: Callable[[], int],
        beside: bool,
    ) -> None:
        self.life = life
        self.fenced = False
        self.outdated = False  # by a newer schema: outcomes are stored, all else is left to those who know it
        self.counts = {"arrived": 0, "stale": 0, "parked": 0, "returned": 0, "refused": 0}
        self.threads = 0
        self.has_room: Callable[[], object] | None = None
        self.acknowledge: Callable[[Any], object] = _acknowledge
        self.broker_away = False  # tickets are kept until it is back
        self.active: dict[str, Arrival] = {}
        # Since when there are commits whose claims are not known here yet: under way, or unsure (monotonic seconds).
        self.began: float | None = None
        self._database = database
        self._settings = settings
        self._publisher = publisher
        self._hub = hub
        self._start = start
        self._pool = pool
        self._beside = ThreadPoolExecutor(1, "batchq-ledger") if beside else None
        self._under_way: tuple[Batch, Future[tuple[Served | None, Exception | None]]] | None = None
        self._arrivals: deque[Arrival] = deque()
        self._parked: list[Arrival] = []
        self._waited: set[str] = set()
        self._reports: deque[tuple[Arrival, Report]] = deque()
        self._refused: dict[str, Refused] = {}
        self._unsent: deque[Ticket] = deque()
        self._known: set[str] = set()
        self._fresh: set[str] = set()
        self._fresh_until = 0.0
        self._linger_until = 0.0
        self._again = False
        self._woken = False
        self._committing = False
        self._retry_at = 0.0
        self._announced = False
        self._broker_missed = False
        self._send_at = 0.0
        self._unsure = False
        self._waits_since: float | None = None

    # --- what comes in --------------------------------------------------------------------------------------

    def offer(self, arrival: Arrival) -> None:
        """Take a ticket in; a second copy of one that is here already is dropped."""
        token = arrival.offer.token
        self.counts["arrived"] += 1
        if token in self._known:
            self.counts["stale"] += 1
            self.acknowledge(arrival.message)
            return
        self._known.add(token)
        self._arrivals.append(arrival)
        self.wake()

    def report(self, arrival: Arrival, report: Report) -> None:
        """Take in how an attempt ended; only the first report of an attempt counts. Callable from any thread."""
        if self.active.pop(report.token, None) is not None:
            self._reports.append((arrival, report))
            self._fresh.discard(report.token)
            crash.point("outcome-received")
            self.wake()

    def has(self, token: str) -> bool:
        """Whether the attempt of this token is here, in whatever state."""
        return token in self._known

    @property
    def room(self) -> int:
        """How many more tickets this server could use now."""
        return self.threads + self._settings.tickets_ahead - len(self._known)

    @property
    def commits(self) -> bool:
        """Whether a commit is under way, which may yet bring attempts to start."""
        return self._committing

    @property
    def idle(self) -> bool:
        """Whether nothing is left to store."""
        return not (self._reports or self._refused or self._committing)

    def unstored(self) -> list[str]:
        """The ids of tasks whose outcomes are known here and not stored yet."""
        waiting = [report for _, report in self._reports]
        return [str(report.task) for report in (*waiting, *(each.report for each in self._refused.values()))]

    # --- commits --------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """See to it that a commit happens soon."""
        if not self._woken:
            self._woken = True
            self._hub.call_soon(self.flush)

    def flush(self) -> None:
        """Begin a commit of all that is here, unless one is under way or the database is being waited for."""
        self._woken = False
        if self._committing or self.fenced or time.monotonic() < self._retry_at or self._lingers():
            return
        batch = self._take()
        if batch is None:
            return
        self._committing = True
        if not self._unsure:
            self.began = batch.began
        if self._beside is None:
            self._ended(batch, *self._commit(batch))
        else:
            self._under_way = batch, self._beside.submit(self._commit, batch)
            self._under_way[1].add_done_callback(lambda _: self._hub.call_soon(self._join))

    def _lingers(self) -> bool:
        """Whether the next commit waits a moment for reports that may be expected now."""
        now = time.monotonic()
        if not self._fresh or now >= self._fresh_until:
            return False
        if not self._linger_until:
            self._linger_until = now + LINGER_SECONDS
            self._hub.call_later(LINGER_SECONDS, self._linger_no_more)
        # By the clock as well: a loop that ends, or waits for the broker, may not come to it.
        return now < self._linger_until

    def _linger_no_more(self) -> None:
        self._fresh.clear()
        self.flush()

    def _join(self) -> None:
        """Take in a commit that has ended beside the loop. `look_again` calls it too, as a loop may lose a callback."""
        if self._under_way is None or not self._under_way[1].done():
            return
        (batch, future), self._under_way = self._under_way, None
        self._ended(batch, *future.result())
        if self._woken:
            self.flush()

    def _take(self) -> Batch | None:
        """What the next commit is about; parked tickets come along, or on their own once they waited too long."""
        late = time.monotonic() - self._settings.ticket_patience_seconds
        # Before the reports: who reports from now on is in the books as executing until the next commit.
        batch = Batch(again=self._again, active=len(self.active))
        batch.reports = list(_drained(self._reports))
        batch.overdue = [arrival for arrival in self._parked if arrival.since <= late]
        batch.alone = [(each.arrival, each.report) for each in self._refused.values() if self._is_due(each)]
        if not (batch.reports or batch.overdue or batch.again or batch.alone or self._arrivals):
            return None
        batch.arrivals = [arrival for arrival in self._parked if arrival.since > late]
        batch.arrivals += _drained(self._arrivals)
        self._parked.clear()
        self._again = False
        batch.known = frozenset(self._known) if self._unsure else None
        batch.began = time.monotonic()
        return batch

    @staticmethod
    def _is_due(refused: Refused) -> bool:
        return refused.due <= time.monotonic()

    def _commit(self, batch: Batch) -> tuple[Served | None, Exception | None]:
        try:
            for arrival, report in batch.alone:
                self._store_alone(batch, arrival, report)
            try:
                return self._serve(batch), None
            except Exception as error:
                if not of_content(error):
                    raise
            return self._commit_apart(batch), None
        except Exception as error:
            # Whatever went wrong, running tasks must not be hurt by it: what is here is kept and tried again.
            return None, error

    def _serve(self, batch: Batch, *, forward: bool = True) -> Served:
        return self._database.run(
            engine.serve,
            self._database,
            self.life,
            [report for _, report in batch.reports],
            [arrival.offer for arrival in batch.arrivals],
            overdue=[arrival.offer for arrival in batch.overdue],
            active=batch.active,
            pool=self._pool(),
            ahead=self._settings.tickets_ahead,
            forward=forward and self._settings.fast_path and not self.outdated,
            again=batch.again,
            known=batch.known,
            unsendable=self._publisher.unsendable,
        )

    # --- what makes a commit fail by its content ------------------------------------------------------------

    def _commit_apart(self, batch: Batch) -> Served:
        """Commit a batch that something in it makes fail: each outcome alone, then the rest."""
        for arrival, report in batch.reports:
            self._store_alone(batch, arrival, report)
        rest = replace(batch, reports=[], again=batch.again or bool(batch.reports))
        aside.set_aside(self._database)
        try:
            return self._serve(rest)
        except Exception as error:
            if not of_content(error):
                raise
        self._claim_apart(rest)
        return self._serve(rest)

    def _store_alone(self, batch: Batch, arrival: Arrival, report: Report) -> None:
        """Store one outcome, with no more left out than the database asks for; what it refuses even so is set aside."""
        said, reason = report, ""
        for less in (aside.bare, aside.refused, None):
            try:
                self._serve(Batch(reports=[(arrival, said)]), forward=False)
            except Exception as error:
                if not of_content(error):
                    raise
                reason = why(error)
            else:
                if reason:
                    logger.warning(
                        "task %d: what it said is left out, as the database refuses it: %s", report.task, reason
                    )
                return
            said = less(report, reason) if less else said
        logger.error("task %d: the database refuses its outcome, which is tried again: %s", report.task, reason)
        batch.refused.add(report.token)
        self._note(What.REPORT, report.task, reason)

    def _claim_apart(self, batch: Batch) -> None:
        """Find, one by one, the tickets whose claim always fails; what is claimed so is claimed again with the rest."""
        active = batch.active
        for arrival in batch.arrivals:
            alone = Batch(arrivals=[arrival], active=active)
            try:
                active += len(self._serve(alone, forward=False).claimed)
            except Exception as error:
                if not of_content(error):
                    raise
                self._note(What.TASK, arrival.offer.task, why(error))

    def _note(self, what: What, task: int, reason: str) -> None:
        database = self._database
        database.run(lambda tx: trouble.note(tx, {(what, task): reason}, self.life.name, database.now(tx)))

    def _ended(self, batch: Batch, served: Served | None, error: Exception | None) -> None:
        self._committing = False
        self._keep_refused(batch, certain=error is None)
        if served is None:
            self._postpone(batch, error)
        elif served.fenced:
            self.fenced = True
            self._put_back(batch)
        elif time.monotonic() - batch.began > self._settings.lost_seconds / 2:
            self._ask_again(batch, served)
        else:
            self._waits_since, self._announced, self._unsure = None, False, False
            self._carry_out(batch, served)
        if not self._unsure:
            self.began = None
        if self._reports or self._arrivals or self._again:
            # Not by `wake`: the loop is at what was called soon, and would wait for an event before it comes to what
            # that calls soon. Nor by a timer that only ends that wait: one that is due already does not.
            self._hub.call_later(AT_ONCE_SECONDS, self.flush)
        if self.has_room is not None and self.room > 0:
            self.has_room()

    def _keep_refused(self, batch: Batch, *, certain: bool) -> None:
        """Keep what was refused for later, with longer and longer pauses, and forget what was stored at last."""
        now = time.monotonic()
        for _, report in batch.alone:
            if certain and report.token not in batch.refused and self._refused.pop(report.token, None) is not None:
                self._known.discard(report.token)
        for arrival, report in (*batch.reports, *batch.alone):
            if report.token in batch.refused:
                kept = self._refused.setdefault(report.token, Refused(arrival, report, now, 0.5))
                kept.pause = min(kept.pause * 2, LONGEST_SECONDS)
                kept.due = now + kept.pause
        batch.reports = [each for each in batch.reports if each[1].token not in batch.refused]

    def _ask_again(self, batch: Batch, served: Served) -> None:
        """Start nothing on an answer that is so old: this process stood still, and may count as lost by now."""
        self._unsure = True
        self._send(served.advance.tickets)
        self._put_back(batch)
        self.wake()

    def _postpone(self, batch: Batch, error: Exception | None) -> None:
        now = time.monotonic()
        known = isinstance(error, DatabaseUnreachable)
        self._unsure = True  # it may have been committed all the same
        self._waits_since = self._waits_since or now
        if not self._announced and (now - self._waits_since > QUIET_SECONDS or not known):
            logger.warning("the ledger waits for the database: %s", error, exc_info=None if known else error)
            self._announced = True
        self._put_back(batch)
        # Not in step with the other writers that wait.
        pause = (RETRY_SECONDS if known else UNKNOWN_SECONDS) * random.uniform(0.5, 1.5)
        self._retry_at = now + pause
        self._hub.call_later(pause * 1.1, self.flush)

    def _put_back(self, batch: Batch) -> None:
        self._reports.extendleft(reversed(batch.reports))
        self._arrivals.extendleft(reversed(batch.arrivals + batch.overdue))
        self._again = self._again or batch.again

    def _carry_out(self, batch: Batch, served: Served) -> None:
        self.counts["stale"] += served.stale
        self.counts["parked"] += len({offer.token for offer in served.parked} - self._waited)
        self.counts["returned"] += len(batch.overdue)
        self._waited = {offer.token for offer in served.parked}
        self.threads = served.threads
        own, claimed = served.own, {row.token: row for row in served.claimed}
        self._fresh, self._fresh_until = {row.token for row in own} | set(claimed), time.monotonic() + FRESH_SECONDS
        self._linger_until = 0.0
        if batch.reports:
            crash.point("finish-committed")
        self._begin_own(own)
        self._begin(batch.arrivals, claimed, {offer.token for offer in served.parked})
        self._send(served.advance.tickets)
        for _, report in batch.reports:
            self._known.discard(report.token)
        for arrival in batch.overdue:
            self._drop(arrival)
        self._again = self._again or served.advance.more

    def _begin_own(self, rows: Sequence[Any]) -> None:
        """Start what this server handed to itself, as if its message had come."""
        for row in rows:
            arrival = Arrival(Offer(row.id, row.token, row.group_name), LocalMessage(), time.monotonic())
            self._known.add(row.token)
            self.active[row.token] = arrival
            crash.point("claim-committed")
            self._start(arrival, row)

    def _begin(self, arrivals: Sequence[Arrival], claimed: Mapping[str, Any], parked: Collection[str]) -> None:
        for arrival in arrivals:
            token = arrival.offer.token
            if token in claimed:
                self.active[token] = arrival
                crash.point("claim-committed")
                self._start(arrival, claimed[token])
                crash.point("attempt-started")
                # From the claim on the row has the truth; and a broker may not wait for hours (RabbitMQ: 30 min).
                self.acknowledge(arrival.message)
            elif token in parked:
                # Its row stays queued, so that a cancel wins; the next commit looks at it again.
                self._parked.append(arrival)
            else:
                self._drop(arrival)

    def _drop(self, arrival: Arrival) -> None:
        self._known.discard(arrival.offer.token)
        self.acknowledge(arrival.message)

    # --- what goes out --------------------------------------------------------------------------------------

    def _send(self, tickets: Sequence[Ticket]) -> None:
        self._unsent.extend(tickets)
        refused: list[Ticket] = []
        if not self.broker_away and time.monotonic() >= self._send_at:
            self._send_all(refused)
        # A ticket that cannot be sent for long is replaced by the coordinator: keep only the newest.
        while len(self._unsent) > MOST_UNSENT:
            self._unsent.popleft()
        if refused:
            self._give_back(refused)

    def _send_all(self, refused: list[Ticket]) -> None:
        """Send what waits, and collect what the broker refuses; one that does not answer is left alone for a while."""
        try:
            while self._unsent:
                crash.point("handed-out")
                refused += self._publisher.publish([self._unsent[0]])
                self._unsent.popleft()
            self._broker_missed = False
        except BrokerUnreachable as error:
            self._send_at = time.monotonic() + UNSENT_SECONDS
            if not self._broker_missed:
                logger.warning("tickets wait for the broker: %s", error)
            self._broker_missed = True

    def _give_back(self, refused: Sequence[Ticket]) -> None:
        """Let tickets go back that cannot be sent, so that others may have their threads."""

        def act() -> None:
            try:
                self._database.run(moves.take_back, [(ticket.task, ticket.token) for ticket in refused])
            except Exception:  # a coordinator finds them still out, and takes them back itself
                logger.warning("%d tickets that cannot be sent stay out for now", len(refused), exc_info=True)

        if self._beside is None:
            act()
        else:
            self._beside.submit(act)  # before the commit that hands those threads out
        self.go_on()

    def look_again(self) -> None:
        """Once a second: tickets that could not be sent, and parked ones that grew too old."""
        self._join()
        if self._unsent:
            self._send(())
        if self._arrivals or self._reports or self._parked or any(map(self._is_due, self._refused.values())):
            self.flush()

    def go_on(self) -> None:
        """More may start than before: hand out what is ready, without waiting for anybody's tick."""
        if self._settings.fast_path:
            self._again = True
            self.wake()

    def begin_life(self, life: Life) -> None:
        """Go on under a new epoch; what the old one left unstored is refused, and counted."""
        self.life = life
        self.fenced = self._unsure = False
        self.wake()

    def close(self, *, wait: bool = True) -> None:
        """End the thread of the commits, and `wait` for the one that is under way."""
        if self._beside is not None:
            self._beside.shutdown(wait=wait)


def _drained(queue: deque[Any]) -> Iterator[Any]:
    """Everything in the queue, oldest first; pool threads may add to it meanwhile."""
    while queue:
        yield queue.popleft()
