"""The surroundings of a ledger: database, broker, loop and pool, and the sources of time and chance."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection
from concurrent.futures import Future
from dataclasses import dataclass
from typing import ParamSpec, Protocol, TypeVar

from batchq.config import Settings
from batchq.engine import Offer
from batchq.store.database import Database
from batchq.store.moves import Start, Ticket

Given = ParamSpec("Given")
Made = TypeVar("Made")


class Bearer(Protocol):
    """The message that brought a ticket, or its stand-in."""

    def ack(self) -> None:
        """Tell the broker that the message is done."""


@dataclass(slots=True, eq=False)
class Arrival:
    """A ticket that came in: its offer, its message, and since when it waits (monotonic seconds)."""

    offer: Offer
    message: Bearer
    since: float


class Sends(Protocol):
    """The way to the broker."""

    @property
    def unsendable(self) -> Collection[str]:
        """The groups whose tickets cannot be sent for now."""

    def publish(self, tickets: list[Ticket], /) -> list[Ticket]:
        """Send the tickets; returns those that the broker refuses, and raises BrokerUnreachable."""


class Hub(Protocol):
    """The worker's event loop."""

    def call_soon(self, callback: Callable[[], object]) -> object:
        """Call it at the loop's next turn."""

    def call_later(self, delay: float, callback: Callable[[], object]) -> object:
        """Call it after this delay, in seconds."""


class Beside(Protocol):
    """A thread in which commits run beside the loop, one after the other."""

    def submit(self, act: Callable[Given, Made], /, *args: Given.args, **named: Given.kwargs) -> Future[Made]:
        """Do the act after those submitted before."""

    def shutdown(self, wait: bool = True) -> None:
        """End the thread."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """All that a ledger works with.

    `start` is called with each granted arrival and its row, and puts the attempt into the pool, which has room for
    `pool()` at once. With `beside` the commits run in a thread of their own, so that a slow database never stalls the
    loop.
    """

    database: Database
    settings: Settings
    publisher: Sends
    hub: Hub
    start: Callable[[Arrival, Start], None]
    pool: Callable[[], int]
    beside: Beside | None = None
    monotonic: Callable[[], float] = time.monotonic
    uniform: Callable[[float, float], float] = random.uniform
