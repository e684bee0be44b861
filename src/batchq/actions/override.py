"""Overrides: other threads for a server until some instant, whatever its windows say (rule 51)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, time
from functools import partial

from batchq.actions.change import Change, Step, perform
from batchq.config import acting_user, users_zone
from batchq.core.override import Override, next_time
from batchq.core.why import local
from batchq.core.windows import YEARS
from batchq.errors import InvalidInput
from batchq.spec.fields import MOST_THREADS
from batchq.store import server as servers
from batchq.store import topology
from batchq.store.database import Database
from batchq.store.find import find_server
from batchq.store.transaction import Tx

MOST_CHARACTERS = 1000


def override_server(
    database: Database,
    name: str,
    threads: int,
    until: datetime | time,
    *,
    reason: str = "",
    by: str | None = None,
    timezone: str | None = None,
    ahead: int = 0,
) -> list[str]:
    """Give a server `threads` threads until an instant, 0 to close it; returns the differences (rule 51).

    A time of day is the next such one in `timezone`, by default the user's, in which the differences are told too. `by`
    is who does it, by default whoever runs this process. Another override of the server is replaced. Raises NotFound;
    InvalidInput for an instant that has passed, and for threads that a server cannot have.
    """
    if not 0 <= threads <= MOST_THREADS:
        raise InvalidInput(f"threads: {threads} is not allowed; use 0 to {MOST_THREADS:,}.")
    if len(reason) > MOST_CHARACTERS or "\0" in reason:
        raise InvalidInput(f"reason: it is too long, or no text; use {MOST_CHARACTERS:,} characters at most.")
    zone, who = users_zone(timezone), by or acting_user()

    def wanted(now: datetime) -> Override:
        return Override(threads, _end(until, zone, now), who, reason.strip())

    return perform(database, lambda tx: _setting(tx, name, wanted, zone), ahead)


def end_override(database: Database, name: str, *, timezone: str | None = None, ahead: int = 0) -> list[str]:
    """Let a server's windows hold again; returns the differences, told in `timezone` (rule 51). Raises NotFound."""
    zone = users_zone(timezone)
    return perform(database, lambda tx: _setting(tx, name, lambda _: None, zone), ahead)


def _end(until: datetime | time, timezone: str, now: datetime) -> datetime:
    """The end of an override in UTC, by the clock of the database; raises InvalidInput."""
    if isinstance(until, time):
        return next_time(until, timezone, now)
    if until.tzinfo is None or until.year not in YEARS[1:-1]:
        raise InvalidInput(f"until: {until} is no instant with a time zone. Give an aware one, such as in UTC.")
    if until <= now:
        raise InvalidInput(f"until: {local(until, timezone, now)} has passed. Give a later instant, or a time of day.")
    return until.astimezone(UTC)


def _setting(tx: Tx, name: str, wanted: Callable[[datetime], Override | None], timezone: str) -> Iterator[Step]:
    row = servers.find(tx, name)
    number = find_server(tx, name) if row is None else row.id
    now = tx.now()  # after the wait for the server's row
    before, after = topology.read(tx).by_id[number].overridden(now), wanted(now)
    if before != after:
        words = (_words(each, timezone, now) for each in (before, after))
        change = Change("server", name, "override", *words)
        yield Step((change,), partial(servers.set_override, tx, number, after), topology=True)


def _words(override: Override | None, timezone: str, now: datetime) -> str:
    if override is None:
        return "none"
    if not override.readable:
        return "unreadable"
    threads = f"{override.threads} thread{'' if override.threads == 1 else 's'}"
    return f"{threads} until {local(override.until, timezone, now)} ({override.origin})"
