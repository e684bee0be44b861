"""What `batchq plan` says comes true: the same jobs, run by real processes on a clock that runs faster."""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from batchq import actions
from batchq.clock import Clock
from batchq.core.windows import Window
from support.site import Site

pytestmark = pytest.mark.timeout(400)

EXAMPLE = Path(__file__).parents[2] / "examples" / "follow-the-sun.yaml"
PLACES = ("Auckland", "Los Angeles", "Oslo")
SHARE = 0.05  # of the time since the start of the run
LAG = 0.6  # real seconds that a start may be late, however short the run is yet

# Long tasks: AOS1 closes while TASK 2 runs, AOS2 while TASK 3 does; TASK 3, 4 and 6 wait for an opening.
JOB_1 = """
job: JOB 1
tasks:
  TASK 1: {run: demo.work, kwargs: {seconds: 5400}}
  TASK 2: {run: demo.work, kwargs: {seconds: 3600}, after: {TASK 1: finished}}
  TASK 3: {run: demo.work, kwargs: {seconds: 5400, fail: true}, after: TASK 2}
  TASK 4: {run: demo.work, kwargs: {seconds: 9000}, after: TASK 2}
  TASK 5: {run: demo.work, kwargs: {seconds: 600}, after: {TASK 2: error}}
  TASK 6: {run: demo.work, kwargs: {seconds: 1800}, after: {TASK 3: error}}
  TASK 7: {run: demo.work, kwargs: {seconds: 3600}, after: [TASK 3, TASK 4], join: any}
"""
# When they are open, in hours since the begin.
SHIFTS = {"AOS1": [(0, 2), (4, 20)], "AOS2": [(3, 4.25), (6, 20)]}


def site_on(folder: Path, clock: Clock) -> Site:
    """A site whose processes, but not this one, see that clock."""
    folder.mkdir(exist_ok=True)
    # This one setting is counted on the database's clock, the others are the world's seconds.
    return Site(folder, app="", clock=clock, lost_ticket_seconds=10 * clock.scale, tick_seconds=0.2)


def start(site: Site, names: Iterable[str]) -> None:
    """Start servers that have no threads yet."""
    site.apply(f"servers: {{{', '.join(f'{name}: {{threads: 0}}' for name in names)}}}")
    site.start_broker()
    site.start_coordinator()
    site.start_servers(list(names))


def instant(iso: str) -> datetime:
    return datetime.fromisoformat(iso)


class Comparison:
    """What was planned beside what happened, both in seconds since the begin of the plan."""

    def __init__(self, plan: dict[str, Any], run: dict[str, Any], scale: float) -> None:
        self.begin = instant(plan["from"])
        self.planned = {task["task"]: task for task in plan["tasks"]}
        self.happened = {task["name"]: task for task in run["tasks"]}
        self.scale = scale
        self.worst = 0.0

    def since_begin(self, iso: str) -> float:
        return (instant(iso) - self.begin).total_seconds()

    def hold(self, what: str, planned: float, happened: float) -> None:
        """Fail if the two differ by more than 5 % of the time since the begin, or a moment where that is less."""
        allowed = max(SHARE * planned, LAG * self.scale)
        assert abs(happened - planned) <= allowed, f"{what}: planned for {planned:.0f} s, happened at {happened:.0f} s"
        self.worst = max(self.worst, abs(happened - planned) / allowed * SHARE)

    def hold_end(self, planned: str, happened: str) -> float:
        """Fail if the run did not end within 5 % of what was planned; returns by how much it was late."""
        wanted, was = self.since_begin(planned), self.since_begin(happened)
        assert abs(was - wanted) <= SHARE * wanted, f"the end: planned for {wanted:.0f} s, happened at {was:.0f} s"
        return (was - wanted) / wanted

    def hold_states(self) -> None:
        planned = {name: task["status"] for name, task in self.planned.items()}
        assert {name: task["status"] for name, task in self.happened.items()} == planned

    def hold_each(self, names: Iterable[str]) -> None:
        """Starts and ends of tasks whose order is determined."""
        for name in names:
            for key in ("started_at", "ended_at"):
                times = self.planned[name][key], self.happened[name][key]
                assert (times[0] is None) == (times[1] is None), f"{name} {key}: {times}"
                if times[0] is not None:
                    self.hold(f"{name} {key}", *map(self.since_begin, times))

    def hold_alike(self, names: Iterable[str]) -> None:
        """Starts and ends of tasks of which any may stand for another: the first, the second, and so on."""
        names = list(names)
        for key in ("started_at", "ended_at"):
            planned, happened = (
                sorted(self.since_begin(tasks[name][key]) for name in names) for tasks in (self.planned, self.happened)
            )
            for number, times in enumerate(zip(planned, happened, strict=True), 1):
                self.hold(f"{key} number {number}", *times)


@pytest.mark.long
def test_follow_the_sun_goes_as_planned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All are closed from 05:00 to 06:00 UTC: what is set up in that hour starts at 06:00 sharp, as in the plan."""
    scale = 600.0
    closed, begin = datetime(2026, 11, 23, 5, tzinfo=UTC), datetime(2026, 11, 23, 6, tzinfo=UTC)
    clock = Clock.starting(closed - timedelta(hours=4), scale, time.time())
    with site_on(tmp_path / "site", clock) as site:
        start(site, PLACES)
        run = site.json("submit", str(EXAMPLE))["run"]
        site.wait_for("all to be closed", lambda: clock.show(datetime.now(UTC)) > closed)
        site.apply(EXAMPLE.read_text())
        assert clock.show(datetime.now(UTC)) < begin, "this machine was too slow to be ready in time"
        plan = site.json("plan", str(EXAMPLE), "--from", begin.isoformat())
        site.wait_for("half of it", lambda: list(site.states(run).values()).count("success") > 45, 120)
        amid = site.json("plan", "--queue")
        happened = site.wait_end(run, 150)

    found = Comparison(plan, happened, scale)
    found.hold_states()
    districts = {name for name in found.planned if len(name) > 2}
    found.hold_each(districts)
    found.hold_alike(found.planned.keys() - districts)
    late = found.hold_end(plan["jobs"][0]["ends_at"], happened["ended_at"])
    found.hold_end(amid["jobs"][0]["ends_at"], happened["ended_at"])
    assert {task["server"] for task in happened["tasks"]} == set(PLACES)
    with capsys.disabled():
        print(f"\nfollow the sun: ended {late:+.2%} from the plan, no start or end more than {found.worst:.2%}")


@pytest.mark.slow
def test_job_1_goes_as_planned_while_windows_close_and_open(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scale = 360.0
    job = tmp_path / "job1.yaml"
    job.write_text(JOB_1)
    clock = Clock.starting(datetime(2026, 11, 23, 12, tzinfo=UTC), scale, time.time())
    with site_on(tmp_path / "site", clock) as site:
        start(site, SHIFTS)
        run = site.json("submit", str(job))["run"]
        begin = (clock.show(datetime.now(UTC)) + timedelta(seconds=4 * scale)).replace(microsecond=0)
        for name, shifts in SHIFTS.items():
            actions.set_server(site.database, name, windows=[shift(begin, *hours) for hours in shifts])
        plan = site.json("plan", str(job), "--from", begin.isoformat())
        happened = site.wait_end(run, 150)

    found = Comparison(plan, happened, scale)
    found.hold_states()
    assert found.planned["TASK 7"]["status"] == found.planned["TASK 6"]["status"] == "success"
    found.hold_each(found.planned)
    late = found.hold_end(plan["jobs"][0]["ends_at"], happened["ended_at"])
    # Where a task waits for an opening, only one server can take it.
    servers = {name: task["server"] for name, task in found.happened.items()}
    assert [servers[f"TASK {number}"] for number in (1, 2, 3, 4, 6)] == ["AOS1", "AOS1", "AOS2", "AOS1", "AOS2"]
    with capsys.disabled():
        print(f"\nJOB 1: ended {late:+.2%} from the plan, no start or end more than {found.worst:.2%}")


def shift(begin: datetime, start: float, end: float) -> Window:
    """A window of one thread from so many hours after the begin to so many."""
    opens, closes = ((begin + timedelta(hours=hours)).time() for hours in (start, end))
    return Window(opens, closes, 1, "UTC")
