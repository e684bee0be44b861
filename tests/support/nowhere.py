"""A publisher whose tickets arrive nowhere."""

from __future__ import annotations

from typing import Any

from batchq.server.publisher import Publisher


class Nowhere(Publisher):
    """What a coordinator hands out here is of no interest."""

    unsendable: frozenset[str] = frozenset()

    def __init__(self) -> None:
        pass

    def publish(self, tickets: Any) -> list[Any]:
        """Nobody is there to receive them."""
        return []
