"""The audit as people read it: who changed what, when and why (rule 39)."""

from __future__ import annotations

from datetime import datetime
from typing import TypedDict

from batchq.store import audit
from batchq.store.transaction import Tx
from batchq.views.instants import iso


class AuditLine(TypedDict):
    """A change that somebody made: the action, its object, and how that stood before and after."""

    at: str
    who: str
    by: str
    what: str
    kind: str
    name: str
    before: str | None
    after: str | None
    why: str | None


def audit_lines(
    tx: Tx,
    *,
    since: datetime | None = None,
    who: str | None = None,
    what: str | None = None,
    limit: int | None = None,
) -> list[AuditLine]:
    """The newest changes first; `what` is an action, or the kind of thing that was changed."""
    return [_line(row) for row in audit.find(tx, since=since, who=who, what=what, limit=limit)]


def _line(row: audit.AuditRow) -> AuditLine:
    return {
        "at": iso(row.at),
        "who": row.who,
        "by": row.by,
        "what": row.what,
        "kind": row.kind,
        "name": row.name,
        "before": row.before,
        "after": row.after,
        "why": row.why,
    }
