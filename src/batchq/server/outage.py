"""A database that does not answer: how long a server waits for it, and when it says so."""

from __future__ import annotations

import logging
from collections.abc import Callable

from batchq.errors import DatabaseUnreachable

logger = logging.getLogger(__name__)

RETRY_SECONDS = 0.05
# An error of an unknown kind seldom goes away at once.
UNKNOWN_SECONDS = 0.5
# Another writer locks a SQLite database for a moment now and then: that is not worth a warning.
QUIET_SECONDS = 2.0


class Outage:
    """The state of waiting for a database since its last answer.

    It is `unsure` while a commit may have happened although its answer was lost.
    """

    def __init__(self, monotonic: Callable[[], float], uniform: Callable[[float, float], float]) -> None:
        self.unsure = False
        self.retry_at = 0.0
        self._monotonic = monotonic
        self._uniform = uniform
        self._since: float | None = None
        self._announced = False

    @property
    def lasts(self) -> bool:
        """Whether it is too early for the next try."""
        return self._monotonic() < self.retry_at

    def postpone(self, error: Exception | None) -> float:
        """Wait after an error; returns the seconds until the next try."""
        now = self._monotonic()
        is_away = isinstance(error, DatabaseUnreachable)
        self.unsure = True  # it may have been committed all the same
        self._since = self._since or now
        if not self._announced and (now - self._since > QUIET_SECONDS or not is_away):
            logger.warning("the ledger waits for the database: %s", error, exc_info=None if is_away else error)
            self._announced = True
        # By chance: writers that wait in step would lock each other out each time.
        pause = (RETRY_SECONDS if is_away else UNKNOWN_SECONDS) * self._uniform(0.5, 1.5)
        self.retry_at = now + pause
        return pause

    def end(self) -> None:
        """Wait no more: the database has answered."""
        self._since, self._announced, self.unsure = None, False, False
