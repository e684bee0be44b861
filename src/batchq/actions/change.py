"""The one door for an operator's changes: one transaction makes them, takes tickets back, and tells what changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime

from batchq import aside, engine, user
from batchq.errors import InvalidInput
from batchq.store import audit, moves, topology
from batchq.store.database import Database
from batchq.store.transaction import Tx

LONGEST_REASON = 1000  # characters


@dataclass(frozen=True, slots=True)
class Change:
    """A difference between what is and what is wanted; `str()` is its sentence.

    Without a `field` the thing itself appears (`before` is None) or goes (`after` is None). `said` replaces the usual
    words for a field that has better ones, and `word` the action's usual name in the audit.
    """

    kind: str
    name: str
    field: str | None = None
    before: str | None = None
    after: str | None = None
    said: str | None = None
    word: str | None = None

    def __str__(self) -> str:
        return f"{self.kind} {self.name}: {self.said or self._usual()}"

    def _usual(self) -> str:
        if self.field is None:
            return "removed" if self.after is None else ", ".join(filter(None, ["new", self.after]))
        if self.before is None:
            return f"{self.field} {self.after} added"
        if self.after is None:
            return f"{self.field} {self.before} removed"
        return f"{self.field} {self.before} → {self.after}"

    @property
    def line(self) -> audit.Line:
        """The change as the audit keeps it."""
        after = self.after if self.before or self.after else self.said
        return audit.Line(self.word or self._action(), self.kind, self.name, self.before, after)

    def _action(self) -> str:
        if self.field is None:
            return "delete" if self.after is None else "create"
        if self.said is None and self.before is None:
            return f"add {self.field}"
        return f"set {self.field}" if self.said or self.after is not None else f"remove {self.field}"


def removal(kind: str, name: str) -> Change:
    """The change of a thing that goes."""
    return Change(kind, name, before=name)


@dataclass(frozen=True, slots=True)
class Step:
    """Changes that are made together.

    `make` returns False if it found nothing to change. `topology` says that servers must hear of it, and that tickets
    may no longer hold.
    """

    changes: tuple[Change, ...]
    make: Callable[[], object]
    topology: bool = False


def perform(
    database: Database, steps: Callable[[Tx], Iterable[Step]], ahead: int = 0, *, reason: str | None = None
) -> list[str]:
    """Take the `steps` in one transaction, which is repeated if it has to be; returns the changes, a sentence each.

    Tickets that no longer hold are taken back in it, but for `ahead` that each server may have beyond its threads. The
    audit gets each change, with the `reason` that the person gives (rule 39).
    """
    check_reason(reason)
    return aside.run(database, lambda tx: take(tx, list(steps(tx)), ahead, reason))


def check_reason(reason: str | None) -> None:
    """Raise InvalidInput for a reason that no database and no terminal can take."""
    if reason is not None and (len(reason) > LONGEST_REASON or not reason.isprintable()):
        raise InvalidInput(f"reason: write one line, of {LONGEST_REASON:,} characters at most.")


def rehearse(database: Database, steps: Callable[[Tx], Iterable[Step]]) -> list[str]:
    """The changes that `perform` would make, a sentence each; nothing is changed."""
    with database.read() as tx:
        return sentences(steps(tx))


def take(tx: Tx, steps: Iterable[Step], ahead: int, reason: str | None = None) -> list[str]:
    """Take the steps in their order, and take back the tickets that no longer hold; returns the changes."""
    taken = [step for step in steps if step.make() is not False]
    record(tx, (change for step in taken for change in step.changes), reason)
    if any(step.topology for step in taken):
        take_back(tx, ahead)
    return sentences(taken)


def take_back(tx: Tx, ahead: int) -> None:
    """Tell all servers of a new topology, and take back the tickets that no longer hold by it (rule 14)."""
    moves.lock_out(tx)
    topology.changed(tx)
    engine.take_back(tx, tx.now(), ahead)


def record(tx: Tx, changes: Iterable[Change], reason: str | None = None, at: datetime | None = None) -> None:
    """Write changes into the audit, in the name of whoever acts, by default with the instant of now (rule 39)."""
    actor = user.actor()
    audit.record(tx, [change.line for change in changes], actor.who, actor.by, reason, at)


def sentences(steps: Iterable[Step]) -> list[str]:
    """The changes of the steps, a sentence each."""
    return [str(change) for step in steps for change in step.changes]
