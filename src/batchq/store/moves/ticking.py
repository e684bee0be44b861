"""The coordinator's one question before a tick: is there anything to do?"""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import exists, literal_column, or_, select

from batchq.core.states import State
from batchq.store.columns import IN_LINE, MOVING, OUT, RUN, STORING, TASK, TROUBLE, status_in_index
from batchq.store.sql.statement import Statement
from batchq.store.transaction import Tx


class Work(NamedTuple):
    """Whether a tick has work to do."""

    to_do: bool


_ANYTHING_OPEN = Statement(
    select(
        or_(
            exists(select(TASK.id).where(literal_column("unsettled"))),
            exists(select(TASK.id).where(IN_LINE)),
            exists(select(TASK.id).where(OUT, status_in_index(State.QUEUED))),
            exists(select(RUN.id).where(STORING)),
            exists(select(RUN.id).where(MOVING)),
            exists(select(TROUBLE.number)),
        )
    ),
    row=Work,
)


def anything_open(tx: Tx) -> bool:
    """Whether a tick has work: an end to settle, a ready task, a ticket out, a run being stored or
    moved, or a row set aside.
    """
    (work,) = _ANYTHING_OPEN(tx)
    return bool(work.to_do)
