"""The moment for which a commit waits, so that attempts which started and end together are stored together."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

# A report waits this long for others, if its attempt started no longer ago than FRESH_SECONDS.
LINGER_SECONDS = 0.001
FRESH_SECONDS = 0.005


class Linger:
    """Knows which attempts started just now and have not ended; `call_later` is the loop's."""

    def __init__(
        self,
        call_later: Callable[[float, Callable[[], object]], object],
        flush: Callable[[], object],
        monotonic: Callable[[], float],
    ) -> None:
        self._call_later = call_later
        self._flush = flush
        self._monotonic = monotonic
        self._fresh: set[str] = set()
        self._fresh_until = 0.0
        self._until = 0.0

    def started(self, tokens: Iterable[str]) -> None:
        """Wait from now on for these attempts, which started together, and for no earlier ones."""
        self._fresh, self._fresh_until = set(tokens), self._monotonic() + FRESH_SECONDS
        self._until = 0.0

    def ended(self, token: str) -> None:
        """Wait no more for an attempt, which has reported."""
        self._fresh.discard(token)

    def lasts(self) -> bool:
        """Whether the next commit still waits for reports that may come at any moment."""
        now = self._monotonic()
        if not self._fresh or now >= self._fresh_until:
            return False
        if not self._until:
            self._until = now + LINGER_SECONDS
            self._call_later(LINGER_SECONDS, partial(self._end, self._until))
        # Not by the timer alone: a loop that ends, or waits for the broker, may never call it.
        return now < self._until

    def _end(self, until: float) -> None:
        # The timer of an earlier wait may come during a later one, which must not be cut short.
        if until == self._until:
            self._fresh.clear()
            self._flush()
