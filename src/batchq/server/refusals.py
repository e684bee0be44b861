"""Outcomes that the database refuses: they are kept, and tried again after longer and longer pauses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from batchq.engine import Report
from batchq.server.commit import Batch
from batchq.server.surroundings import Arrival
from batchq.store.trouble import LONGEST_SECONDS


@dataclass(slots=True)
class Refused:
    """An outcome that the database refuses, and when it is tried again (monotonic seconds)."""

    arrival: Arrival
    report: Report
    due: float
    pause: float = 1.0


class Refusals:
    """All outcomes of a server that its database refuses, by token."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._kept: dict[str, Refused] = {}

    def __bool__(self) -> bool:
        return bool(self._kept)

    @property
    def reports(self) -> list[Report]:
        """The outcomes themselves."""
        return [each.report for each in self._kept.values()]

    def due(self) -> list[tuple[Arrival, Report]]:
        """The outcomes that are to be tried again now."""
        return [(each.arrival, each.report) for each in self._kept.values() if each.due <= self._monotonic()]

    def stored(self, batch: Batch) -> list[str]:
        """Forget the outcomes that a commit has stored at last; returns their tokens."""
        tokens = [report.token for _, report in batch.alone if report.token not in batch.refused]
        return [token for token in tokens if self._kept.pop(token, None) is not None]

    def keep(self, batch: Batch) -> None:
        """Move the outcomes that the database refused from their batch to here."""
        now = self._monotonic()
        for arrival, report in (*batch.reports, *batch.alone):
            if report.token in batch.refused:
                kept = self._kept.setdefault(report.token, Refused(arrival, report, now, 0.5))
                kept.pause = min(kept.pause * 2, LONGEST_SECONDS)
                kept.due = now + kept.pause
        batch.reports = [each for each in batch.reports if each[1].token not in batch.refused]
