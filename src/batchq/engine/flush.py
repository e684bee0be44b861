"""One flush of a server's ledger: what it carries to the database in one commit, and what it brings back."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

from batchq.core.ends import End
from batchq.core.priority import AGING
from batchq.engine.advancing import Advance
from batchq.store.moves import Pile, Start
from batchq.store.sql.statement import Reply


@dataclass(frozen=True, slots=True)
class Life:
    """A server's name as carried by one life of its worker: the epoch fences off all others."""

    server: int
    name: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Offer:
    """A ticket that has arrived at a server; of one that was claimed, also the `pile` in which its task lay."""

    task: int
    token: str
    group: str
    pile: Pile | None = None

    @classmethod
    def of(cls, row: Start) -> Offer:
        """The offer behind a claimed row."""
        return cls(row.id, row.token, row.group_name, row.pile)


@dataclass(frozen=True, slots=True)
class Report:
    """How an attempt ended, and what it wrote; a `repeatable` operation does no harm if it runs once more."""

    task: int
    token: str
    end: End
    log: str | None = None
    repeatable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Flush:
    """One server's reports, offers and questions, for one commit.

    `reports` tell how attempts ended, `offers` ask for a thread, and `overdue` offers found none in time and go back.
    `active` attempts still run there, and its pool has room for `pool` (rule 16). The tasks that start next are
    `likely` of these piles; that only spares time. Dispatch gives a server up to `ahead` tickets beyond its free
    threads, and a group whose tickets are `unsendable` none. A task that waits rises
    by a class each `aging` seconds. `may_advance` is false where only the coordinator may
    advance. `more_to_settle` goes on with what the last flush left unsettled. After a commit whose reply was lost,
    `tokens_here` names the attempts that the server knows of.
    """

    reports: Sequence[Report] = ()
    offers: Sequence[Offer] = ()
    overdue: Sequence[Offer] = ()
    active: int
    pool: int
    likely: Collection[Pile] = ()
    ahead: int = 0
    aging: float = AGING
    unsendable: Collection[str] = ()
    may_advance: bool = True
    more_to_settle: bool = False
    tokens_here: Collection[str] | None = None

    def with_started(self, attempts: int) -> Flush:
        """The flush with this many more attempts active."""
        return replace(self, active=self.active + attempts) if attempts else self


@dataclass(frozen=True, slots=True)
class Served:
    """The answer to one flush.

    `claimed` are the rows of offers that the server may start. `regained` are attempts that a commit with a lost reply
    had claimed. `handed` are tasks, by id, that this commit dispatched to its own server; `started`, read with the
    commit, has their rows. `parked` offers wait on for a thread, `stale` counts refused reports and offers, and
    `threads` is the number that the server may use now. A life that is no longer its server's is `fenced` (rule 31).
    """

    claimed: Sequence[Start] = ()
    regained: Sequence[Start] = ()
    handed: Sequence[int] = ()
    started: Reply[Start] | None = None
    parked: Sequence[Offer] = ()
    stale: int = 0
    threads: int = 0
    advance: Advance = field(default_factory=Advance)
    fenced: bool = False

    @property
    def own(self) -> Sequence[Start]:
        """The rows that the server starts without a ticket."""
        rows = {row.id: row for row in self.started.rows} if self.started is not None else {}
        return [*self.regained, *(rows[task] for task in self.handed if task in rows)]

    @property
    def granted(self) -> Sequence[Start]:
        """All rows that the server starts."""
        return [*self.claimed, *self.own]
