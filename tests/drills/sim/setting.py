"""The parts of the world that events happen to."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING

from batchq.spec import JobSpec
from batchq.store.database import Database
from drills.sim.processes import Action, Actor, Process, ServerProcess
from support import rules

if TYPE_CHECKING:
    from drills.sim.broker import Broker


class Setting:
    """Processes, people's wishes, time and chance, as the world has them."""

    rng: random.Random
    mono: float
    commits: int
    calm: bool
    at_a_dispatch: list[tuple[str, Callable[[Database, int], object]]]
    limited: bool
    twins: bool
    ahead: int
    names: list[str]
    pace: float
    asked: list[tuple[str, str | int]]
    actions: list[Action]
    plans: dict[str, rules.Plan]
    jobs: dict[str, JobSpec]
    processes: dict[int, Process]
    shared: Database
    broker: Broker
    _clockwork: Actor
    _day: datetime
    if TYPE_CHECKING:
        wall: Callable[[], datetime]
        after: Callable[[Actor, float, Callable[[], object]], None]
        servers: Callable[[], list[ServerProcess]]
