"""All that happens to the world in the faulty time, one event after the other."""

from __future__ import annotations

from drills.sim.machines import Machines
from drills.sim.people import People

# What people and machines do in the faulty time, and how often it is drawn.
EVENTS = {
    "cancel": 1,
    "cancel at a dispatch": 1,
    "hold": 3,
    "hold at a dispatch": 3,
    "release": 3,
    "pause": 3,
    "resume": 3,
    "threads": 2,
    "windows": 3,
    "override": 2,
    "bindings": 2,
    "disable": 2,
    "enable": 3,
    "priority": 1,
    "priority of run": 1,
    "retry": 8,
    "accept": 2,
    "abort": 4,
    "limit": 2,
    "per run": 2,
    "delete": 1,
    "submit": 2,
    "kill": 2,
    "stop": 1,
    "freeze": 2,
    "second life": 2,
    "kill coordinator": 1,
    "freeze coordinator": 1,
    "clock": 3,
    "broker emptied": 1,
    "broker away": 1,
    "broker hangs": 1,
    "queue refused": 4,
    "replay": 3,
}


class Events(People, Machines):
    """Each event by its name in EVENTS."""

    def _happen(self) -> None:
        """One event of the faulty time, and the next one after a while."""
        if self.calm:
            return
        self.after(self._clockwork, self.rng.random() * self.pace, self._happen)
        (what,) = self.rng.choices(list(EVENTS), list(EVENTS.values()))
        getattr(self, "_on_" + what.replace(" ", "_"))()
