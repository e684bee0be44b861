"""Every fault of the engine that the simulation must find, by its name."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from drills.sim import clock_mutants, mutants, steering_mutants

FAULTS: dict[str, Callable[[], AbstractContextManager[None]]] = {
    mutant.__name__: mutant for mutant in (*mutants.MUTANTS, *steering_mutants.MUTANTS, *clock_mutants.MUTANTS)
}
