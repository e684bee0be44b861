"""An operator's override: until some instant a server has other threads than its windows give it (rule 51)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time

from batchq.core.windows import DAY, zone

# A gap of the clocks may move a time to the next date, and one zone skipped a whole date once.
DAYS_TO_LOOK_AT = range(-2, 4)


@dataclass(frozen=True, slots=True)
class Override:
    """The threads of a server until the aware instant `until`, exclusive, whatever its windows say (rule 51).

    `by` set it, for the reason `why`, which may be empty. A stored one that is not `readable` keeps its server closed.
    """

    threads: int
    until: datetime
    by: str = ""
    why: str = ""
    readable: bool = True

    def holds(self, instant: datetime) -> bool:
        """Whether it counts at the aware `instant`; afterwards the windows do again."""
        return instant < self.until

    @property
    def origin(self) -> str:
        """`olav: 'licence'`, or `olav` where no reason was given."""
        return f"{self.by}: '{self.why}'" if self.why else self.by


def next_time(clock: time, timezone: str, after: datetime) -> datetime:
    """The next instant, in UTC and later than the aware `after`, at which the clock in that zone shows the time.

    A time that a gap skips moves forward by the gap; of a time that comes twice the first counts (rule 51).
    """
    today = after.astimezone(zone(timezone)).date()
    found = (_shown_at(today + shift * DAY, clock, timezone) for shift in DAYS_TO_LOOK_AT)
    return min(instant for instant in found if instant > after)


def _shown_at(day: date, clock: time, timezone: str) -> datetime:
    """The instant of a local time: Python counts it from before the gap, and takes the first of two."""
    return datetime.combine(day, clock, zone(timezone)).astimezone(UTC)
