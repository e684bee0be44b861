"""The tickets that a server's commits hand out, on their way to the broker."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence

from batchq import crash
from batchq.errors import BrokerUnreachable
from batchq.server.surroundings import Sends
from batchq.store.moves import Ticket

logger = logging.getLogger(__name__)

# A broker that hangs answers late, and meanwhile the loop sees to nothing else: it is asked no more often than this.
UNSENT_SECONDS = 1.0
MOST_UNSENT = 1000


class Outgoing:
    """Tickets that wait for the broker, oldest first."""

    def __init__(self, publisher: Sends, monotonic: Callable[[], float]) -> None:
        self._publisher = publisher
        self._monotonic = monotonic
        self._unsent: deque[Ticket] = deque()
        self._send_at = 0.0
        self._broker_missed = False

    def __bool__(self) -> bool:
        return bool(self._unsent)

    def send(self, tickets: Sequence[Ticket], *, broker_away: bool) -> list[Ticket]:
        """Send these tickets and those that wait, if the broker takes them; returns those that it refuses."""
        self._unsent.extend(tickets)
        refused: list[Ticket] = []
        if not broker_away and self._monotonic() >= self._send_at:
            self._send_all(refused)
        # The coordinator replaces a ticket that is not sent for long. More of them would only fill the memory.
        while len(self._unsent) > MOST_UNSENT:
            self._unsent.popleft()
        return refused

    def _send_all(self, refused: list[Ticket]) -> None:
        """Send the waiting tickets and collect the refused ones; leave a silent broker alone."""
        try:
            while self._unsent:
                crash.point("handed-out")
                refused += self._publisher.publish([self._unsent[0]])
                self._unsent.popleft()
            self._broker_missed = False
        except BrokerUnreachable as error:
            self._send_at = self._monotonic() + UNSENT_SECONDS
            if not self._broker_missed:
                logger.warning("tickets wait for the broker: %s", error)
            self._broker_missed = True
