"""One commit of a server: what goes into it, how it is stored, and what to do if its content makes it fail."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace

from batchq import aside, engine
from batchq.engine import Flush, Life, Report, Served
from batchq.server.surroundings import Arrival, Surroundings
from batchq.store import moves, trouble
from batchq.store.failures import of_content, why
from batchq.store.moves import Ticket
from batchq.store.trouble import What

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Batch:
    """The content of one commit."""

    reports: list[tuple[Arrival, Report]] = field(default_factory=list)
    arrivals: list[Arrival] = field(default_factory=list)
    overdue: list[Arrival] = field(default_factory=list)
    more_to_settle: bool = False
    active: int = 0
    tokens_here: frozenset[str] | None = None
    began: float = 0.0
    # Outcomes that the database refused before, each to be tried in a commit of its own.
    alone: list[tuple[Arrival, Report]] = field(default_factory=list)
    # The tokens of outcomes that the database refuses in this commit.
    refused: set[str] = field(default_factory=set)


class Committer:
    """Stores batches, one after the other; may run in a thread beside the loop.

    Once a newer schema has `outdated` this process, it stores outcomes only, and leaves the rest to newer processes.
    """

    def __init__(self, life: Life, around: Surroundings) -> None:
        self.life = life
        self.outdated = False
        self._database = around.database
        self._settings = around.settings
        self._publisher = around.publisher
        self._pool = around.pool

    def commit(self, batch: Batch) -> tuple[Served | None, Exception | None]:
        """Store the batch; returns the answer to its flush, or the error for which all of it has to be tried again."""
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
            # Raised here, it would end the loop, and with it the tasks that run.
            return None, error

    def give_back(self, tickets: list[Ticket]) -> None:
        """Take back tickets that cannot be sent, so that others may have their threads."""
        try:
            self._database.run(moves.unqueue, [(ticket.task, ticket.token) for ticket in tickets])
        except Exception:  # a coordinator finds them still out, and takes them back itself
            logger.warning("%d tickets that cannot be sent stay out for now", len(tickets), exc_info=True)

    def _serve(self, batch: Batch, *, may_advance: bool = True) -> Served:
        return self._database.run(
            engine.serve,
            self.life,
            Flush(
                reports=[report for _, report in batch.reports],
                offers=[arrival.offer for arrival in batch.arrivals],
                overdue=[arrival.offer for arrival in batch.overdue],
                active=batch.active,
                pool=self._pool(),
                likely={pile for arrival, _ in batch.reports if (pile := arrival.offer.pile)},
                ahead=self._settings.tickets_ahead,
                aging=self._settings.priority_aging_seconds,
                unsendable=self._publisher.unsendable,
                may_advance=may_advance and self._settings.fast_path and not self.outdated,
                more_to_settle=batch.more_to_settle,
                tokens_here=batch.tokens_here,
            ),
        )

    # --- what makes a commit fail by its content ------------------------------------------------------------

    def _commit_apart(self, batch: Batch) -> Served:
        """Commit a batch that fails by its content: each outcome alone, then the rest."""
        for arrival, report in batch.reports:
            self._store_alone(batch, arrival, report)
        rest = replace(batch, reports=[], more_to_settle=batch.more_to_settle or bool(batch.reports))
        aside.set_aside(self._database)
        try:
            return self._serve(rest)
        except Exception as error:
            if not of_content(error):
                raise
        self._claim_apart(rest)
        return self._serve(rest)

    def _store_alone(self, batch: Batch, arrival: Arrival, report: Report) -> None:
        """Store one outcome, leaving out no more than the database asks for; set it aside if even that is refused."""
        said, reason = report, ""
        for less in (aside.bare, aside.refused, None):
            try:
                self._serve(Batch(reports=[(arrival, said)]), may_advance=False)
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
        """Find the tickets whose claim always fails, one by one; the next commit claims all others once more."""
        active = batch.active
        for arrival in batch.arrivals:
            alone = Batch(arrivals=[arrival], active=active)
            try:
                active += len(self._serve(alone, may_advance=False).claimed)
            except Exception as error:
                if not of_content(error):
                    raise
                self._note(What.TASK, arrival.offer.task, why(error))

    def _note(self, what: What, task: int, reason: str) -> None:
        database = self._database
        database.run(lambda tx: trouble.note(tx, {(what, task): reason}, self.life.name, tx.now()))
