"""A campaign: faults one by one, each until it is got over, or one every few seconds; then the calm and the verdict."""

from __future__ import annotations

import math
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import psutil
import psycopg

from drills.chaos.faults import Blow, Surgeon
from drills.chaos.hostile import NOT_WELL
from drills.chaos.installation import Feeder, Installation
from drills.chaos.table import ROWS

TESTS = Path(__file__).parents[2]
LOOK_SECONDS = 0.02
# A fault that has not been got over by then counts as one that never was.
MOST_SECONDS = 90.0
TRIES = 100

Act = Callable[[Surgeon], Blow | None]


@dataclass
class Campaign:
    """Plays faults, and remembers how long each took to be got over."""

    site: Installation
    surgeon: Surgeon
    feeder: Feeder
    began: float = field(default_factory=time.monotonic)
    taken: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    never: list[str] = field(default_factory=list)
    struck: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))

    def one_by_one(self, acts: Iterable[Act], *, rest: float) -> None:
        """Each fault is got over before the next one comes; `rest` seconds at most, until all servers work again."""
        for act in acts:
            blow = self._strike(act)
            if blow is None:
                self.say(f"{act.__name__}: not possible here")
                continue
            with self.feeder.held() if blow.calm else nullcontext():
                self._get_over(blow)
            blow.then()
            if works := self.surgeon.works(since=time.monotonic()):
                self._wait(works, rest)

    def _strike(self, act: Act) -> Blow | None:
        for _ in range(TRIES):
            self.surgeon.attend()
            if blow := self._blow(act):
                return blow
            time.sleep(LOOK_SECONDS)
        return None

    def _blow(self, act: Act) -> Blow | None:
        blow = None
        # What another fault has taken away cannot be hurt: a database that stands still.
        with suppress(psycopg.OperationalError, psutil.Error):
            blow = act(self.surgeon)
        if blow is not None:
            self.struck[blow.kind] += 1
        return blow

    def _get_over(self, blow: Blow) -> None:
        if blow.over is None:
            self.say(f"{blow.kind} ({blow.subject})")
            return
        if blow.meanwhile:
            self._stored_meanwhile(blow, blow.meanwhile)
        over = self._wait(
            lambda: time.monotonic() >= blow.since and blow.over is not None and blow.over(), blow.lasts + MOST_SECONDS
        )
        if over is None:
            self.never.append(f"{blow.kind} ({blow.subject}) was not got over in {MOST_SECONDS:g} s")
            self.say(self.never[-1])
            return
        self.taken[blow.kind].append(over - blow.since)
        self.say(f"{blow.kind} ({blow.subject}): {over - blow.since:.2f} s")

    def _stored_meanwhile(self, blow: Blow, missing: Callable[[], str]) -> None:
        """Look until the end of the fault whether that was done which does not need what is gone."""
        left = missing()
        while left and time.monotonic() < blow.since:
            self.surgeon.attend()
            left = missing()
            time.sleep(LOOK_SECONDS)
        if left:
            self.never.append(f"{blow.kind} ({blow.subject}): {left}")
            self.say(self.never[-1])

    def _wait(self, over: Callable[[], bool], seconds: float) -> float | None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.surgeon.attend()
            if over():
                return time.monotonic()
            time.sleep(LOOK_SECONDS)
        return None

    def storm(self, acts: tuple[Act, ...], *, seconds: float, every: float) -> None:
        """A fault every so many seconds, by lot, whatever the ones before have left."""
        began = time.monotonic()
        for number in count(1):
            if blow := self._blow(self.surgeon.rng.choice(acts)):
                self.say(f"{blow.kind} ({blow.subject})")
            self.surgeon.attend()
            while time.monotonic() < began + min(number * every, seconds):
                self.surgeon.attend()
                time.sleep(LOOK_SECONDS)
            if time.monotonic() >= began + seconds:
                return

    def say(self, words: str) -> None:
        print(f"{time.monotonic() - self.began:7.2f}  {words}", flush=True)

    # --- the end --------------------------------------------------------------------------------------------

    def verdict(self, within: float) -> int:
        """End the faults, wait for the calm, and let the checker judge; returns the exit code."""
        self.feeder.end()
        self.surgeon.attend(everything=True)
        self.site.go_on()
        self.site.note("calm")
        wrong = [*self.never]
        tickets = self.site.tickets()
        took = self.site.calm()
        if took is None:
            wrong.append("60 s after the faults not every task is terminal")
        else:
            self.say(f"every task is terminal {took:.1f} s after the faults")
        wrong += [*self.site.exits, *self.surgeon.said]
        spoiled = self.site.rows("SELECT error FROM batchq_attempt WHERE error LIKE :word", word=f"%{NOT_WELL}%")
        wrong += [row.error for row in spoiled or ()]
        if self.site.postgres is None and (rows := self.site.rows("PRAGMA integrity_check")) != [("ok",)]:
            wrong.append(f"the database is damaged: {rows}")
        self.say(f"{self.feeder.jobs} jobs, {self.feeder.refused} refused, {sum(self.struck.values())} faults")
        self.say(f"{self.site.unborn} times a process could not begin and was started again")
        self.say(f"tickets: {', '.join(f'{number} {word}' for word, number in tickets.items())}")
        checked = self._checked(within)
        print(*wrong, sep="\n")
        return int(bool(wrong) or checked)

    def _checked(self, within: float) -> int:
        command = [sys.executable, "-m", "support.checker", str(self.site._ledger), self.site.database_url]
        return subprocess.run([*command, "--within", str(within)], cwd=TESTS, check=False).returncode

    def table(self) -> str:
        """How long it took until the work went on, as docs/guarantees.md has it; above it, how often each came."""
        taken = {kind: sorted(self.taken[kind]) for kind in ROWS if self.taken.get(kind)}
        lines = ["  ".join(f"{kind}: {len(times)}" for kind, times in taken.items()), ""]
        most = max(map(len, taken.values()), default=0)
        lines += [f"| fault | median | p99, the longest of {most} | allowed |", "|---|---:|---:|---:|"]
        for kind, times in taken.items():
            words, limit = ROWS[kind]
            if limit is not None:
                p99 = times[math.ceil(0.99 * len(times)) - 1]
                lines.append(f"| {words} | {_told(statistics.median(times))} | {_told(p99)} | {limit:g} s |")
        return "\n".join(lines)


def _told(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds < 0.1 else f"{seconds:.1f} s"
