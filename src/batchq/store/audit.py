"""The audit in SQL: a line for each change that somebody made; lines are only added (rule 39)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import bindparam, insert, or_, select

from batchq.store.columns import AUDIT
from batchq.store.sql.statement import Statement
from batchq.store.tables import Audit
from batchq.store.transaction import Tx


class Line(NamedTuple):
    """A change: the action, the thing that it changed, and how that stood before and after."""

    what: str
    kind: str
    name: str
    before: str | None
    after: str | None


class AuditRow(NamedTuple):
    """A line of the audit as it is stored."""

    id: int
    at: datetime
    who: str
    by: str
    what: str
    kind: str
    name: str
    before: str | None
    after: str | None
    why: str | None


_line = {name: AUDIT[name] for name in Line._fields}
_signed = ("at", "who", "by", "why")
_RECORD = Statement(
    lambda given: insert(Audit).from_select(
        [*_line, *_signed],
        select(
            *(getattr(given, name) for name in _line), *(bindparam(name, type_=AUDIT[name].type) for name in _signed)
        ),
        include_defaults=False,
    ),
    columns=_line,
)


def record(
    tx: Tx, lines: Sequence[Line], who: str, by: str, why: str | None = None, at: datetime | None = None
) -> None:
    """Add lines to the audit, by default with the instant of now; they are there only if this transaction commits."""
    if lines:
        _RECORD.later(tx, [line._asdict() for line in lines], at=at or tx.now(), who=who, by=by, why=why)


def find(
    tx: Tx, *, since: datetime | None = None, who: str | None = None, what: str | None = None, limit: int | None = None
) -> list[AuditRow]:
    """The newest lines, newest first; `what` is an action, or the kind of thing that was changed."""
    rows = select(*(AUDIT[field] for field in AuditRow._fields)).order_by(AUDIT.at.desc(), AUDIT.id.desc()).limit(limit)
    if since is not None:
        rows = rows.where(AUDIT.at >= since)
    if who is not None:
        rows = rows.where(AUDIT.who == who)
    if what is not None:
        rows = rows.where(or_(AUDIT.what == what, AUDIT.kind == what))
    return [AuditRow._make(row) for row in tx.execute(rows)]
