"""Limits: the most tasks at once that share a licence, a job or a run; and the lanes that take the same (rule 29)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

MANY = 2**31  # more free units than there are threads
MOST_UNITS = 1_000_000  # that a limit may have


class Lane(NamedTuple):
    """The tasks of one group that take the same limits.

    A key is `limit:NAME`, `job:ID`, or `run:ID`, which stands for the limit that the group sets for each run.
    """

    id: int
    group: str
    keys: tuple[str, ...] = ()

    @property
    def is_per_run(self) -> bool:
        """Whether the group's limit for each run counts for it."""
        return any(key.startswith("run:") for key in self.keys)


def named(limit: str) -> str:
    """The key of a named limit."""
    return f"limit:{limit}"


def of_job(job: int) -> str:
    """The key of a job's limit over all its runs."""
    return f"job:{job}"


def of_run(run: int) -> str:
    """The key of a group's limit for each run, in this run."""
    return f"run:{run}"


def written(keys: Iterable[str]) -> str:
    """The keys as a lane's row holds them."""
    return json.dumps(sorted(set(keys)))


class Limits(Protocol):
    """The limits that are set."""

    @property
    def units(self) -> Mapping[str, int]:
        """The units of named limits and of jobs, by their keys."""

    @property
    def per_run(self) -> Mapping[str, int]:
        """The units that each run has in a group, by groups."""


def units_of(lane: Lane, limits: Limits) -> dict[str, int]:
    """The units of each limit that counts for the lane; one that is no longer set does not."""
    found = {}
    for key in lane.keys:
        units = limits.per_run.get(lane.group) if key.startswith("run:") else limits.units.get(key)
        if units is not None:
            found[place(lane, key)] = units
    return found


def place(lane: Lane, key: str) -> str:
    """The key under which units are counted: a run has units of its own in each group."""
    return f"{key}/{lane.group}" if key.startswith("run:") else key


@dataclass(slots=True)
class Units:
    """The units that are free while dispatch gives them away (rules 29b-29e).

    `used` counts, by lane, the attempts that execute and the tickets that are out.
    """

    limits: Limits
    used: Mapping[Lane, int]
    _free: dict[str, int] = field(default_factory=dict)
    _taken: Counter[str] | None = None

    def room(self, lane: Lane) -> int:
        """How many tasks of the lane could start if no other lane took a unit."""
        if self.is_unsorted(lane):
            return 0
        return min(self._of(lane).values(), default=MANY) if lane.keys else MANY

    def is_unsorted(self, lane: Lane) -> bool:
        """Whether its group has got a limit for each run since its tasks came here; they wait to be moved."""
        return lane.group in self.limits.per_run and not lane.is_per_run

    def units(self, lane: Lane, key: str) -> int | None:
        """The units of one of the lane's limits; None if it is no longer set."""
        return units_of(lane, self.limits).get(place(lane, key))

    def free(self, lane: Lane, key: str) -> int:
        """The free units of one of the lane's limits; fewer than none where it was lowered."""
        return self._of(lane).get(place(lane, key), MANY)

    def in_use(self, lane: Lane, key: str) -> int:
        """The units of one of the lane's limits that tasks have."""
        return self._in_use[place(lane, key)]

    def take(self, lane: Lane) -> bool:
        """Take a unit of each of the lane's limits; False, and none is taken, if one has none left."""
        free = self._of(lane)
        if any(units <= 0 for units in free.values()):
            return False
        for key in free:
            self._free[key] -= 1
        return True

    def give_back(self, lane: Lane) -> None:
        """Give back the units that `take` took."""
        for key in self._of(lane):
            self._free[key] += 1

    def keep(self, lane: Lane) -> None:
        """Keep the free units of the lane's limits for a task that lacks one of them (rule 29e)."""
        for key, units in self._of(lane).items():
            if units > 0:
                self._free[key] -= 1

    def _of(self, lane: Lane) -> dict[str, int]:
        """The free units of the lane's limits; fewer than none where a limit was lowered."""
        for key, units in units_of(lane, self.limits).items():
            if key not in self._free:
                self._free[key] = units - self._in_use[key]
        return {key: self._free[key] for key in (place(lane, key) for key in lane.keys) if key in self._free}

    @property
    def _in_use(self) -> Counter[str]:
        if self._taken is None:
            self._taken = Counter()
            for lane, number in self.used.items():
                self._taken.update({place(lane, key): number for key in lane.keys})
        return self._taken
