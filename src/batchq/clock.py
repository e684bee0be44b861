"""The wall clock; tests can make it fast, or shift it, for every process of an installation."""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache

from batchq.errors import InvalidInput

VARIABLE = "BATCHQ_CLOCK"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Clock:
    """Shows `offset + scale · t` when the world's clock shows t, both in seconds since 1970."""

    offset: float = 0.0
    scale: float = 1.0

    @classmethod
    def starting(cls, at: datetime, scale: float, real: float) -> Clock:
        """The clock that shows `at` at the `real` instant, and from there runs `scale` times as fast."""
        return cls((at - EPOCH).total_seconds() - scale * real, scale)

    @classmethod
    def parse(cls, text: str) -> Clock:
        """Parse a clock written as `offset,scale`; raises InvalidInput."""
        try:
            offset, _, scale = text.partition(",")
            clock = cls(float(offset), float(scale or 1))
            if clock.scale > 0 and math.isfinite(clock.scale) and clock.show(datetime.now(UTC)):
                return clock
        except (ValueError, OverflowError):
            pass
        raise InvalidInput(
            f"{VARIABLE}: {text[:80]!r} is no clock. Write it as offset,scale: it then shows "
            "offset + scale × the seconds since 1970, the scale being more than 0."
        )

    def __str__(self) -> str:
        return f"{self.offset!r},{self.scale!r}"

    def show(self, instant: datetime) -> datetime:
        """Return the time that it shows at a real instant, in UTC."""
        if (self.offset, self.scale) == (0.0, 1.0):
            return instant
        return EPOCH + timedelta(seconds=self.offset + self.scale * (instant - EPOCH).total_seconds())


@cache
def clock() -> Clock:
    """The clock of this process, read once from BATCHQ_CLOCK; raises InvalidInput."""
    text = os.environ.get(VARIABLE)
    return Clock.parse(text) if text else Clock()


def now() -> datetime:
    """Read the clock, in UTC."""
    return clock().show(datetime.now(UTC))


def real_seconds(shown: timedelta) -> float:
    """The real seconds in which the clock moves on by `shown`."""
    return shown.total_seconds() / clock().scale


def sleep(seconds: float) -> None:
    """Sleep until the clock has moved on by this many seconds."""
    time.sleep(seconds / clock().scale)
