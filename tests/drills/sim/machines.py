"""Machines that fail in the faulty time."""

from __future__ import annotations

from datetime import timedelta

from drills.sim.jobs import GROUPS
from drills.sim.processes import CoordinatorProcess, Process, ServerProcess
from drills.sim.setting import Setting

# Where a second life of a server's name may begin; a container has its host's name, and pids of its own.
SECOND_PLACES = ["here", "there", "elsewhere", "here/in a container", "here/in a container"]


class Machines(Setting):
    """Servers, coordinators, clocks and the broker, an event a method."""

    def _any(self, kind: type[Process]) -> Process | None:
        found = [each for each in self.processes.values() if isinstance(each, kind) and not each.dead]
        return self.rng.choice(found) if found else None

    def _on_kill(self) -> None:
        if server := self._any(ServerProcess):
            server.kill()

    def _on_stop(self) -> None:
        if servers := self.servers():
            self.rng.choice(servers).stopping = True

    def _on_freeze(self) -> None:
        if server := self._any(ServerProcess):
            server.freeze(self.rng.choice([1.0, 6.0, 25.0]) * self.rng.random())

    def _on_second_life(self) -> None:
        ServerProcess(self, self.rng.choice(self.names), self.rng.choice(SECOND_PLACES))

    def _on_kill_coordinator(self) -> None:
        if one := self._any(CoordinatorProcess):
            one.kill()

    def _on_freeze_coordinator(self) -> None:
        if one := self._any(CoordinatorProcess):
            one.freeze(self.rng.choice([1.0, 6.0, 25.0]) * self.rng.random())

    def _on_clock(self) -> None:
        sign, size = self.rng.choice([-1, 1]), self.rng.choice([1, 10, 60, 3600, 86400])
        self._day += timedelta(seconds=sign * size * self.rng.random())

    def _on_broker_emptied(self) -> None:
        self.broker.empty()

    def _on_broker_away(self) -> None:
        self.broker.away = True
        self.after(self._clockwork, 6.0 * self.rng.random(), self._broker_back)

    def _broker_back(self) -> None:
        self.broker.away = False

    def _on_broker_hangs(self) -> None:
        self.broker.hang(self.rng.choice([1.0, 6.0, 15.0]) * self.rng.random())

    def _on_queue_refused(self) -> None:
        self.broker.refused_until[self.rng.choice(GROUPS)] = self.mono + self.rng.choice([3.0, 200.0])

    def _on_replay(self) -> None:
        self.broker.replay()
