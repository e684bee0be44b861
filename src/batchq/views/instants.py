"""The clock of the database, and how views write an instant."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import overload

from batchq.store.transaction import Tx


@overload
def iso(instant: datetime) -> str: ...
@overload
def iso(instant: datetime | None) -> str | None: ...
def iso(instant: datetime | None) -> str | None:
    """`2026-01-31T12:00:00.123456Z`, or None."""
    if instant is None:
        return None
    return instant.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def clock(tx: Tx) -> datetime:
    """The database's clock (rule 20)."""
    return tx.now()
