"""Advance: one step forward, the act that servers, clients and the coordinator share."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from batchq.core.priority import AGING
from batchq.engine.dispatching import dispatch
from batchq.engine.settling import settle, unsettled
from batchq.store import topology as topologies
from batchq.store.moves import Ticket
from batchq.store.transaction import Tx


@dataclass(frozen=True, slots=True)
class Advance:
    """One step forward: tickets to publish after the commit, and whether more is left to settle."""

    tickets: list[Ticket] = field(default_factory=list)
    more: bool = False


def advance(tx: Tx, *, ahead: int = 0, unsendable: Collection[str] = (), aging: float = AGING) -> Advance:
    """Settle what has ended, then dispatch what is ready; a group whose tickets are `unsendable` gets none."""
    reply = unsettled(tx, topologies.aside(tx).runs)
    more = settle(tx, tx.now(), reply)
    return Advance(dispatch(tx, ahead, unsendable, aging), more)


def hand_out(tx: Tx, *, ahead: int = 0, unsendable: Collection[str] = (), aging: float = AGING) -> Advance:
    """Dispatch what is ready, as the step after a submit, which leaves nothing to settle."""
    return Advance(dispatch(tx, ahead, unsendable, aging))
