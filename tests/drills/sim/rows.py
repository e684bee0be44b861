"""Rows as the journal has them so far, while the judge replays it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, time
from zoneinfo import ZoneInfo

from support import rules


@dataclass
class Task:
    """A task as the journal has it so far."""

    id: int
    status: str | None = None
    token: str | None = None
    attempt: int = 0
    server: int | None = None
    epoch: int | None = None
    ready_at: datetime | None = None
    claimed_at: str | None = None
    lane: int = 0
    own_class: int = 0
    accepted: str | None = None
    unsettled: bool = False
    # How many attempts there had been at each retry by an operator.
    resets: list[int] = field(default_factory=list)

    @property
    def reset_at(self) -> int:
        """The attempts before the last retry by an operator."""
        return self.resets[-1] if self.resets else 0

    @property
    def state(self) -> str:
        """Its status; what was canceled with its run is gone."""
        return rules.GONE if self.status == "canceled" and self.claimed_at is None else str(self.status)


@dataclass
class Server:
    """A server as the journal has it so far."""

    name: str
    threads: int
    enabled: bool
    running: bool
    epoch: int
    pool: int | None
    beat: int
    override: tuple[int, datetime] | None = None
    beat_at: float = 0.0

    def open_threads(self, windows: list[tuple[str, str, int, str]], wall: datetime) -> int:
        """How many tasks it may run at once at this instant (rules 16 to 19, 51)."""
        if not (self.enabled and self.running):
            return 0
        if self.override is not None and wall < self.override[1]:
            most = self.override[0]
        else:
            most = self.threads if not windows else max((each[2] for each in windows if _covers(each, wall)), default=0)
        return most if self.pool is None else min(most, self.pool)


def _covers(window: tuple[str, str, int, str], wall: datetime) -> bool:
    start, end = (time.fromisoformat(each) for each in window[:2])
    clock = wall.astimezone(ZoneInfo(window[3])).time()
    return start <= clock < end if start < end else clock >= start or clock < end


@dataclass(frozen=True)
class Claim:
    """What one commit claimed."""

    commit: int
    task: int
    attempt: int
    token: str
    server: int


def instant_of(text: str | None) -> datetime | None:
    """An instant as SQLite has it."""
    return None if text is None else datetime.fromisoformat(text).replace(tzinfo=UTC)
