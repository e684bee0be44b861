"""200 changes of three busy servers, from threads to overrides and pauses: each is exact, and shows its effect.

A change that allows something is proved by a start that the set-up before it forbade; one that only forbids, by
two seconds in which ready work waited that would have started before. While a change waits for its proof nothing
else touches the servers and groups it is about (rules 14, 20, 23).
"""

from __future__ import annotations

import os
import random
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import func, select

from batchq import Job, actions
from batchq.core.topology import Server, Topology
from batchq.core.windows import Window
from batchq.errors import Conflict
from batchq.store.tables import TaskRow
from e2e.timeline import Timeline, executing, threads_of
from support.site import Site

pytestmark = [pytest.mark.slow, pytest.mark.timeout(420)]

CHANGES = int(os.environ.get("TEST_CHANGES", "200"))
MOST_THREADS = 4
SERVERS = ("AOS1", "AOS2", "AOS3")
GROUPS = ("default", "BG1", "BG2", "BG3")
WITHIN = 2.0
PAUSE_SECONDS = 0.1
TASKS_PER_GROUP = 3500
# How long an override lasts whose end is to be proved, and one that outlasts the drill.
SOON_SECONDS, FAR_SECONDS = 1.0, 3600.0
MOST_SECONDS = 300.0


@dataclass
class Change:
    """A change that shows from `made` on, and how long a start took to prove it; `proved` is None if it forbids.

    Until then nobody else may change what it `owns` or what it `uses`.
    """

    words: str
    owns: set[str]
    uses: set[str]
    proved: Callable[[], bool] | None
    made: float = field(default_factory=time.monotonic)
    seconds: float | None = None


class Operator:
    """Makes random changes, keeps those that still wait for their proof, and never touches what they are about."""

    def __init__(self, site: Site, rng: random.Random) -> None:
        self.site = site
        self.rng = rng
        self.timeline = Timeline(site)
        self.made: list[Change] = []
        self.open: list[Change] = []
        self._again = 0.0

    @property
    def topology(self) -> Topology:
        return self.timeline.states[-1].topology

    def server(self, name: str) -> Server:
        return self.timeline.states[-1].server(name)

    def threads(self, name: str) -> int:
        """How many threads the server has now."""
        server = self.server(name)
        return threads_of(server, self.timeline.now()) if server.enabled else 0

    def takes(self, name: str) -> set[str]:
        """The groups of which the server starts tasks now, if it has a thread."""
        return {group for group in GROUPS if self.topology.takes(self.server(name), group)}

    # --- one change -----------------------------------------------------------------------------------------

    def change(self) -> None:
        """Make one change that can show its effect now, if one is found; seldom in vain, as each try costs."""
        if time.monotonic() < self._again:
            return
        self._again = time.monotonic() + PAUSE_SECONDS
        owned = {one for change in self.open for one in change.owns}
        used = {one for change in self.open for one in change.uses}
        kinds = [
            *(self._threads, self._windows, self._override, self._switch),
            *(self._rebind, self._add_or_remove, self._pause),
        ]
        for kind in self.rng.sample(kinds, len(kinds)):
            for words, owns, uses, act, proof, *later in kind():
                if not (owns & (owned | used) or uses & owned):
                    self._make(words, owns, uses, act, proof, *later)
                    return

    def _make(
        self,
        words: str,
        owns: set[str],
        uses: set[str],
        act: Callable[[], object],
        proof: Callable[[datetime], bool] | None,
        later: float = 0.0,
    ) -> None:
        """Make the change; its effect to be proved begins so many seconds `later`."""
        self.timeline.change(act)
        if self.rng.random() < 0.5:
            self.site.batch.forward()  # as the command line does; otherwise a tick must do
        done = self.timeline.states[-1].done
        change = Change(words, owns, uses, partial(proof, done) if proof else None, time.monotonic() + later)
        self.made.append(change)
        self.open.append(change)

    def _threads(self) -> Iterator[tuple]:
        for name in self.rng.sample(SERVERS, 3):
            before, server = self.threads(name), self.server(name)
            after = self.rng.choice([n for n in range(MOST_THREADS + 1) if n != before])
            if server.enabled and not server.windows and self.takes(name) and not self._overridden(name):
                act = partial(actions.set_server, self.site.database, name, threads=after)
                yield (
                    f"{name}: threads {before} → {after}",
                    {name},
                    self.takes(name),
                    act,
                    self._more(name, before, after),
                )

    def _windows(self) -> Iterator[tuple]:
        for name in self.rng.sample(SERVERS, 3):
            before, server = self.threads(name), self.server(name)
            now = datetime.now(UTC)
            after = self.rng.choice([n for n in range(MOST_THREADS + 1) if n != before])
            windows = [_window(now - timedelta(hours=1), after)] if after else [_window(now + timedelta(hours=2), 3)]
            if server.windows and self.rng.random() < 0.5:
                windows, after = [], server.threads
            if server.enabled and self.takes(name) and after != before and not self._overridden(name):
                act = partial(actions.set_server, self.site.database, name, windows=windows)
                shown = ", ".join(map(str, windows)) or "none"
                yield f"{name}: windows {shown}", {name}, self.takes(name), act, self._more(name, before, after)

    def _override(self) -> Iterator[tuple]:
        """Other threads until far away, which shows at once, or so soon that the end must show; or none any more."""
        for name in self.rng.sample(SERVERS, 3):
            before, server = self.threads(name), self.server(name)
            if not server.enabled or not self.takes(name):
                continue
            if self._overridden(name):
                after = threads_of(replace(server, override=None), self.timeline.now())
                act = partial(actions.end_override, self.site.database, name)
                if after != before:
                    yield f"{name}: override ended", {name}, self.takes(name), act, self._more(name, before, after)
                continue
            after = self.rng.choice([n for n in range(MOST_THREADS + 1) if n != before])
            words, act = f"{name}: override {before} → {after}", partial(self._until, name, after, FAR_SECONDS)
            if self.rng.random() < 0.5:
                yield words, {name}, self.takes(name), act, self._more(name, before, after)
            else:
                act = partial(self._until, name, after, SOON_SECONDS)
                proof = self._more(name, after, before)
                yield f"{words} for {SOON_SECONDS:g} s", {name}, self.takes(name), act, proof, SOON_SECONDS

    def _overridden(self, name: str) -> bool:
        return self.server(name).overridden(self.timeline.now()) is not None

    def _until(self, name: str, threads: int, seconds: float) -> None:
        until = self.timeline.now() + timedelta(seconds=seconds)
        actions.override_server(self.site.database, name, threads, until, by="drill", timezone="UTC")

    def _switch(self) -> Iterator[tuple]:
        for name in self.rng.sample(SERVERS, 3):
            server = self.server(name)
            threads = threads_of(server, self.timeline.now())
            if threads and self.takes(name):
                act = partial(actions.set_server, self.site.database, name, enabled=not server.enabled)
                before, after = (threads, 0) if server.enabled else (0, threads)
                yield (
                    f"{name}: enabled {not server.enabled}",
                    {name},
                    self.takes(name),
                    act,
                    self._more(name, before, after),
                )

    def _rebind(self) -> Iterator[tuple]:
        """New groups, none of which the server took before: whatever it starts next proves them."""
        for name in self.rng.sample(SERVERS, 3):
            old = {group for group in GROUPS if self.topology.serves(self.server(name), group)}
            fresh = [group for group in GROUPS if group not in old | self.topology.paused]
            if fresh and self.threads(name):
                groups = self.rng.sample(fresh, self.rng.randint(1, min(2, len(fresh))))
                if self._unbound(name) and not self._unbound(name) & old:
                    groups = self.rng.choice([groups, []])
                gained = set(groups) or self._unbound(name)
                act = partial(actions.set_server, self.site.database, name, groups=groups)
                proof = partial(self._started, name, gained)
                # Others that are bound to nothing may take more or less now.
                owns = {*SERVERS, *GROUPS} if self._loose() - {name} or not groups else {name}
                yield f"{name}: groups {sorted(old)} → {sorted(groups)}", owns, {*old, *groups}, act, proof

    def _add_or_remove(self) -> Iterator[tuple]:
        for name in self.rng.sample(SERVERS, 3):
            bound = self.server(name).groups
            lagging = self._oldest()
            if not self.threads(name) or not bound or self._loose():
                continue
            if lagging and lagging not in bound | self.topology.paused:
                act = partial(actions.set_server, self.site.database, name, groups=[*bound, lagging])
                proof = partial(self._started, name, {lagging})
                yield f"{name}: adds {lagging}", {name, lagging}, set(bound), act, proof
            elif len(bound) > 1:
                gone = self.rng.choice(sorted(bound))
                act = partial(actions.set_server, self.site.database, name, groups=bound - {gone})
                yield f"{name}: removes {gone}", {name}, set(bound), act, None

    def _pause(self) -> Iterator[tuple]:
        for group in self.rng.sample(GROUPS, len(GROUPS)):
            taking = {name for name in SERVERS if self.topology.serves(self.server(name), group)}
            working = {name for name in taking if self.threads(name)}
            if group in self.topology.paused and working and group == self._oldest():
                proof = partial(self._started, None, {group})
                act = partial(actions.resume_group, self.site.database, group)
                yield f"{group}: resumed", {group}, taking, act, proof
            elif group not in self.topology.paused and working and len(self.topology.paused) < 2:
                act = partial(actions.pause_group, self.site.database, group)
                yield f"{group}: paused", {group}, taking, act, None

    def _unbound(self, name: str) -> set[str]:
        """What the server would start if it were bound to nothing (rule 11)."""
        bound = {group for other in SERVERS if other != name for group in self.server(other).groups}
        return {group for group in GROUPS if group == "default" or group not in bound} - self.topology.paused

    def _loose(self) -> set[str]:
        """The servers that are bound to no group."""
        return {name for name in SERVERS if not self.server(name).groups}

    def _oldest(self) -> str | None:
        """The group whose best ready task was stored first, so that it goes before those of all others."""
        statement = (
            select(TaskRow.group_name).where(TaskRow.status == "ready").order_by(TaskRow.ready_at, TaskRow.id).limit(1)
        )
        with self.site.database.read() as tx:
            return tx.execute(statement).scalar()

    # --- proofs ---------------------------------------------------------------------------------------------

    def _more(self, name: str, before: int, after: int) -> Callable[[datetime], bool] | None:
        """If there are more threads now, as many must come to run as were not allowed before."""
        return (lambda _: executing(self.site).get(name, 0) > before) if after > before else None

    def _started(self, name: str | None, groups: set[str], since: datetime) -> bool:
        """Whether a task of these groups was claimed after the change, on this server or on any."""
        claimed = select(func.count()).where(TaskRow.claimed_at >= since, TaskRow.group_name.in_(groups))
        if name is not None:
            claimed = claimed.where(TaskRow.server_id == self.server(name).id)
        with self.site.database.read() as tx:
            return bool(tx.execute(claimed).scalar())

    def look(self) -> None:
        """See which changes are proved by now, or were long enough without a start that they forbid."""
        for change in list(self.open):
            waited = time.monotonic() - change.made
            if waited < 0:
                continue
            if change.proved is not None and change.proved():
                change.seconds = waited
                self.open.remove(change)
            elif change.proved is not None:
                assert waited < 5 * WITHIN, f"no effect after {waited:.1f} s: {change}"
            elif waited > WITHIN:
                self.open.remove(change)


def _window(start: datetime, threads: int) -> Window:
    """A window of two hours."""
    times = [(start + timedelta(hours=hours)).time().replace(microsecond=0) for hours in (0, 2)]
    return Window(*times, threads, "UTC")


def jobs() -> Iterator[Job]:
    """Enough work of every group that some of each is ready to the end, the groups in turn."""
    for part in range(TASKS_PER_GROUP // 500):
        job = Job(f"BACKLOG {part}")
        for number in range(500):
            for group in GROUPS:
                job.task(f"{group} {number}", "ledger.work", kwargs={"seconds": 0.06}, group=group)
        yield job


def test_200_changes_are_in_force_within_two_seconds_and_never_broken(
    tmp_path: Path, broker: str, capsys: pytest.CaptureFixture[str]
) -> None:
    seed = int(os.environ.get("TEST_SEED", "20261122"))
    with Site(tmp_path, broker=broker) as site:
        site.apply(
            "servers: {AOS1: {threads: 2, groups: [BG1]}, AOS2: {threads: 2, groups: [BG2]}, AOS3: {threads: 2}}"
        )
        site.start_broker()
        site.start_coordinator()
        site.start_servers(SERVERS)
        operator = Operator(site, random.Random(seed))
        runs = [site.submit(job) for job in jobs()]

        def all_made() -> bool:
            operator.look()
            if len(operator.made) < CHANGES:
                operator.change()
            return len(operator.made) >= CHANGES and not operator.open

        site.wait_for("200 changes", all_made, MOST_SECONDS)
        ready = ready_by_group(site)
        for run in runs:
            with suppress(Conflict):  # it may be through
                actions.cancel_run(site.database, run)
        for run in runs:
            site.wait_end(run)

        began, ended = operator.timeline.states[0].done, operator.timeline.states[-1].done
        claims = operator.timeline.judge(runs)
        seconds = sorted(change.seconds for change in operator.made if change.seconds is not None)
        with capsys.disabled():
            print(f"\n{broker}, {(ended - began).total_seconds():.0f} s: {report(operator.made, seconds, len(claims))}")
        assert all(ready.values()), f"the backlog ran dry: {ready}"
        assert len(claims) >= 5 * CHANGES
        assert percentile(seconds, 99) < WITHIN


def ready_by_group(site: Site) -> dict[str, int]:
    statement = select(TaskRow.group_name, func.count()).where(TaskRow.status == "ready").group_by(TaskRow.group_name)
    with site.database.read() as tx:
        counted = dict(tx.execute(statement).all())
    return {group: counted.get(group, 0) for group in GROUPS}


def percentile(values: list[float], part: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[part - 1]


def report(made: list[Change], seconds: list[float], claims: int) -> str:
    kinds = f"{len(seconds)} proved by a start, {len(made) - len(seconds)} by {WITHIN:g} s without one"
    figures = ", ".join(f"p{part} {percentile(seconds, part):.3f}" for part in (50, 90, 99))
    return f"{len(made)} changes: {kinds}; in force after {figures}, at most {seconds[-1]:.3f} s; {claims} starts"
