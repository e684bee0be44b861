"""What would run when and where: the simulation, held against the rules and against a slow one of its own."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, time, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchq.core.conditions import Condition, Join
from batchq.core.retries import Policy
from batchq.core.simulated import Found, Planned, SimRun, SimTask, Simulation
from batchq.core.simulation import simulate
from batchq.core.states import Outcome, RunState, State
from batchq.core.thread_hours import full_hours
from batchq.core.topology import Server, Topology
from batchq.core.windows import Window
from support import rules
from support.nodes import condition_of

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)  # a Monday, 14:00 in Oslo
SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)
GROUPS = ("default", "BG1", "BG2")
FINISHED, ERROR = Outcome.FINISHED, Outcome.ERROR

JOB_1: dict[str, tuple[Condition, ...]] = {
    "TASK 1": (),
    "TASK 2": (Condition("TASK 1", FINISHED),),
    "TASK 3": (Condition("TASK 2"),),
    "TASK 4": (Condition("TASK 2"),),
    "TASK 5": (Condition("TASK 2", ERROR),),
    "TASK 6": (Condition("TASK 3", ERROR),),
    "TASK 7": (Condition("TASK 3"), Condition("TASK 4")),
}


def servers(*threads: int) -> Topology:
    """AOS1, AOS2, … with so many threads, round the clock."""
    return Topology(tuple(Server(number, f"AOS{number}", each) for number, each in enumerate(threads, 1)))


def windowed(*windows: str, timezone: str = "UTC") -> Topology:
    """AOS1 with windows: `windowed("08:00-18:00=2")`."""
    made = []
    for text in windows:
        span, _, threads = text.partition("=")
        start, _, end = span.partition("-")
        made.append(Window(time.fromisoformat(start), time.fromisoformat(end), int(threads), timezone))
    return Topology((Server(1, "AOS1", windows=tuple(made)),))


def job_1(*failing: str, seconds: float = 60) -> SimRun:
    return SimRun("JOB 1", tuple(SimTask(name, seconds, after, fails=name in failing) for name, after in JOB_1.items()))


def alike(number: int, seconds: float = 60, **facts: object) -> SimRun:
    return SimRun("J", tuple(SimTask(f"T{place}", seconds, **facts) for place in range(number)))  # type: ignore[arg-type]


def planned(topology: Topology, *jobs: SimRun, hours: float = 24, begin: datetime = NOON) -> Simulation:
    return simulate(topology, jobs, begin, begin + hours * HOUR)


def times(simulation: Simulation) -> dict[str, tuple[float | None, float | None]]:
    """Start and end of each task, in minutes from the begin."""

    def minutes(instant: datetime | None) -> float | None:
        return None if instant is None else (instant - simulation.begin) / timedelta(minutes=1)

    return {task.task: (minutes(task.started_at), minutes(task.ended_at)) for task in simulation.tasks}


def by_name(simulation: Simulation) -> dict[str, Planned]:
    return {task.task: task for task in simulation.tasks}


# --- conditions and verdicts (rules 2 to 7) -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("failing", "success", "error", "verdict"),
    [
        ("", "1 2 3 4 7", "", "success"),
        ("1", "2 3 4 7", "1", "error"),
        ("2", "1 5", "2", "error"),
        ("3", "1 2 4 6", "3", "error"),
        ("4", "1 2 3", "4", "error"),
        ("3 4", "1 2 6", "3 4", "error"),
        ("2 5", "1", "2 5", "error"),
    ],
)
def test_the_job_of_the_introduction_ends_as_its_table_says(failing, success, error, verdict):
    simulation = planned(servers(1, 1), job_1(*(f"TASK {number}" for number in failing.split())))
    wanted = {f"TASK {number}": "didnt_run" for number in range(1, 8)}
    wanted |= {f"TASK {number}": "success" for number in success.split()}
    wanted |= {f"TASK {number}": "error" for number in error.split()}
    assert {task.task: task.state.value for task in simulation.tasks} == wanted
    assert [close.verdict for close in simulation.jobs] == [verdict]


def test_tasks_follow_each_other_and_run_side_by_side_on_two_servers():
    simulation = planned(servers(1, 1), job_1())
    assert times(simulation) == {
        "TASK 1": (0, 1),
        "TASK 2": (1, 2),
        "TASK 3": (2, 3),
        "TASK 4": (2, 3),
        "TASK 5": (None, 2),
        "TASK 6": (None, 3),
        "TASK 7": (3, 4),
    }
    assert {by_name(simulation)[name].server for name in ("TASK 3", "TASK 4")} == {"AOS1", "AOS2"}
    assert simulation.jobs[0].ended_at == NOON + timedelta(minutes=4)


def test_any_starts_on_the_first_condition_met():
    tasks = (
        SimTask("quick", 60),
        SimTask("slow", 600),
        SimTask("either", 60, (Condition("slow"), Condition("quick")), Join.ANY),
        SimTask("both", 60, (Condition("slow"), Condition("quick"))),
    )
    simulation = planned(servers(4), SimRun("J", tasks))
    assert times(simulation)["either"] == (1, 2)
    assert times(simulation)["both"] == (10, 11)


@pytest.mark.parametrize("handled", [True, False])
def test_a_failure_counts_unless_it_is_handled(handled):
    tasks = (SimTask("A", 60, fails=True), SimTask("B", 60, (Condition("A", ERROR, handles=handled),)))
    simulation = planned(servers(1), SimRun("J", tasks))
    assert simulation.jobs[0].verdict is (RunState.SUCCESS if handled else RunState.ERROR)


def test_a_failure_that_is_to_be_ignored_does_not_count():
    simulation = planned(servers(1), SimRun("J", (SimTask("A", 60, fails=True, ignore_failure=True),)))
    assert (simulation.tasks[0].state, simulation.jobs[0].verdict) == (State.ERROR, RunState.SUCCESS)


def test_what_fails_is_tried_again_as_often_as_it_may():
    simulation = planned(servers(1), SimRun("J", (SimTask("A", 60, fails=True, retries=2, retry_delay=600),)))
    (task,) = simulation.tasks
    starts = [attempt.start - NOON for attempt in simulation.attempts]
    assert starts == [timedelta(0), timedelta(minutes=11), timedelta(minutes=22)]
    assert (task.attempts, task.state, task.ended_at) == (3, State.ERROR, NOON + timedelta(minutes=23))
    assert task.waited == timedelta(0)


def test_the_waits_of_what_fails_grow_without_jitter_and_count_from_an_operators_retry():
    policy = Policy(backoff=2, most=240, jitter=0.5)
    task = SimTask("A", 60, fails=True, retries=3, retry_delay=60, policy=policy)
    simulation = planned(servers(1), SimRun("J", (task,)))
    starts = [attempt.start - NOON for attempt in simulation.attempts]
    assert starts == [timedelta(minutes=at) for at in (0, 2, 5, 10)]

    found = Found(State.READY, NOON, attempts=4, retried_at=4)
    again = planned(servers(1), SimRun("J", (replace(task, found=found),)))
    assert [attempt.start - NOON for attempt in again.attempts] == starts


def test_tasks_that_take_no_time_follow_each_other_at_one_instant():
    chain = tuple(SimTask(f"T{n}", 0, (Condition(f"T{n - 1}"),) if n else ()) for n in range(5))
    simulation = planned(servers(1), SimRun("J", chain))
    assert set(times(simulation).values()) == {(0, 0)}
    assert simulation.jobs[0].ended_at == NOON


# --- threads and windows (rules 16 to 21) -------------------------------------------------------------------


def test_no_more_run_than_there_are_threads_and_none_is_left_idle():
    simulation = planned(servers(2, 1), alike(7))
    assert sorted(start for start, _ in times(simulation).values()) == [0, 0, 0, 1, 1, 1, 2]
    assert Counter(task.server for task in simulation.tasks) == {"AOS1": 5, "AOS2": 2}


def test_nothing_starts_in_the_half_hour_between_the_windows():
    night = windowed("08:00-18:00=2", "18:00-07:30=20")
    simulation = planned(night, alike(45, 1200), begin=datetime(2026, 6, 1, 7, tzinfo=UTC))
    assert Counter(start for start, _ in times(simulation).values()) == {
        0: 20, 20: 20, **{60 + 20 * number: 2 for number in range(2)}, 100: 1,
    }  # fmt: skip


def test_what_runs_when_a_window_closes_ends_in_peace_and_takes_its_thread():
    simulation = planned(windowed("12:00-12:30=2", "12:30-14:00=1"), alike(4, 2400))
    assert times(simulation) == {"T0": (0, 40), "T1": (0, 40), "T2": (40, 80), "T3": (80, 120)}
    (first, *_) = simulation.hours
    assert (first.threads["AOS1"], first.busy["AOS1"]) == (2 * 1800 + 1800, 2 * 2400 + 1200)
    assert first.idle == 0


def test_a_window_that_opens_at_the_end_of_a_task_counts_at_that_very_instant():
    simulation = planned(windowed("12:00-12:10=1", "12:10-13:00=3"), alike(4, 600))
    assert sorted(times(simulation).values()) == [(0, 10), (10, 20), (10, 20), (10, 20)]


def test_windows_go_by_the_clock_of_their_zone_through_a_change_of_the_clocks():
    # In the night to 29 March 2026 Oslo's clock goes from 02:00 to 03:00: the window is an hour shorter.
    night = windowed("01:00-04:00=1", timezone="Europe/Oslo")
    simulation = planned(night, alike(4, 3600), begin=datetime(2026, 3, 29, 0, tzinfo=UTC), hours=30)
    assert [start for start, _ in times(simulation).values()] == [0, 60, 23 * 60, 24 * 60]


def test_a_disabled_server_starts_nothing_and_one_that_does_not_run_counts_as_running():
    stopped = Topology((Server(1, "AOS1", 5, enabled=False), Server(2, "AOS2", 1, alive=False)))
    assert sorted(times(planned(stopped, alike(2))).values()) == [(0, 1), (1, 2)]


def test_a_pool_limits_what_a_window_allows():
    small = Topology((Server(1, "AOS1", 5, pool=2),))
    assert sorted(start for start, _ in times(planned(small, alike(4))).values()) == [0, 0, 1, 1]


# --- groups and priorities (rules 11 to 13, 28, 29) ---------------------------------------------------------


def test_a_bound_group_runs_on_its_servers_alone_and_they_take_nothing_else():
    topology = Topology((Server(1, "AOS1", 2), Server(2, "AOS2", 1, frozenset({"BG1"}))))
    job = SimRun("J", (*alike(3, group="BG1").tasks, SimTask("D", 60), SimTask("E", 60), SimTask("F", 60)))
    simulation = planned(topology, job)
    assert [by_name(simulation)[name].server for name in "DEF"] == ["AOS1"] * 3
    assert [by_name(simulation)[f"T{n}"].server for n in range(3)] == ["AOS2"] * 3
    assert times(simulation)["F"] == (1, 2)
    assert times(simulation)["T2"] == (2, 3)


def test_a_higher_priority_goes_first_then_who_waits_longer_then_the_order_of_the_file():
    tasks = (
        SimTask("first", 60),
        SimTask("second", 60),
        SimTask("later", 60, (Condition("first"),)),
        SimTask("urgent", 60, (Condition("first"),), priority=3),
        SimTask("low", 60, priority=0),
    )
    simulation = planned(servers(1), SimRun("J", tasks))
    assert sorted(times(simulation), key=lambda name: times(simulation)[name][0] or 0) == [
        "first", "urgent", "second", "later", "low",
    ]  # fmt: skip


def test_of_two_jobs_the_first_one_goes_first():
    simulation = simulate(servers(1), [alike(2), replace(alike(2), name="K")], NOON, NOON + HOUR)
    assert [(simulation.jobs[task.job].job, task.task, task.waited / SECOND) for task in simulation.tasks] == [
        ("J", "T0", 0), ("J", "T1", 60), ("K", "T0", 120), ("K", "T1", 180),
    ]  # fmt: skip


def test_a_paused_group_and_one_that_nobody_serves_wait_for_ever():
    topology = replace(servers(2), paused=frozenset({"BG1"}))
    bound = Topology((Server(1, "AOS1", 2, frozenset({"BG2"})),))
    for each, group, why in (
        (topology, "BG1", "BG1 is paused"),
        (bound, "default", "default: no server serves this group"),
    ):
        simulation = planned(each, alike(1, group=group))
        assert (simulation.tasks[0].state, simulation.tasks[0].waited) == (State.READY, 24 * HOUR)
        assert simulation.why(group, simulation.end) == why
    assert planned(topology, alike(1, group="BG1")).hours[0].missing == 0
    assert planned(bound, alike(1)).hours[0].missing == 3600


# --- the horizon and the hours ------------------------------------------------------------------------------


def test_what_ends_at_the_horizon_has_ended_and_nothing_starts_there():
    simulation = planned(servers(1), alike(3, 1800), hours=1)
    assert [task.state for task in simulation.tasks] == [State.SUCCESS, State.SUCCESS, State.READY]
    assert (simulation.jobs[0].verdict, simulation.jobs[0].ended_at) == (None, None)
    assert simulation.tasks[2].waited == HOUR
    assert planned(servers(1), alike(2, 1800), hours=1).jobs[0].ended_at == NOON + HOUR


def test_what_runs_across_the_horizon_has_no_end():
    simulation = planned(servers(1), alike(1, 7200), hours=1)
    (attempt,) = simulation.attempts
    assert (attempt.end, simulation.tasks[0].state, simulation.tasks[0].ended_at) == (None, State.EXECUTING, None)


def test_an_hour_adds_up_what_is_there_what_is_used_and_what_is_missing():
    simulation = planned(servers(2), alike(3, 1800), hours=2)
    first, second = simulation.hours
    assert (first.start, first.end, second.end) == (NOON, NOON + HOUR, NOON + 2 * HOUR)
    assert (first.threads, first.busy) == ({"AOS1": 7200}, {"AOS1": 5400})
    assert (first.idle, first.missing) == (1800, 1800)
    assert (second.busy, second.idle, second.missing) == ({"AOS1": 0}, 7200, 0)


@pytest.mark.parametrize(
    ("begin", "timezone", "minutes"),
    [
        (NOON, "UTC", [60, 120]),
        (NOON + 20 * timedelta(minutes=1), "Europe/Oslo", [40, 100, 160]),
        (NOON, "Asia/Kolkata", [30, 90, 150]),
        (NOON + timedelta(seconds=3599.5), "UTC", [0.5 / 60, 60 + 0.5 / 60, 120 + 0.5 / 60]),
        (datetime(2026, 10, 25, 0, 30, tzinfo=UTC), "Europe/Oslo", [30, 90, 150]),  # 02:30, and the clocks go back
    ],
)
def test_hours_are_those_of_the_clock(begin, timezone, minutes):
    edges = full_hours(begin, begin + 3 * HOUR, timezone)
    assert [(edge - begin) / timedelta(minutes=1) for edge in edges] == pytest.approx(minutes)


def test_why_a_task_waits_is_told_for_any_instant():
    simulation = planned(windowed("12:00-13:00=1", timezone="UTC"), alike(3, 1800))
    assert simulation.why("default", NOON) == "AOS1 1/1 threads busy"
    assert simulation.why("default", NOON + HOUR, "Europe/Oslo") == (
        "default: no server has an open window until Tue 02 Jun 14:00 Europe/Oslo (AOS1, 12:00-13:00 UTC with 1 thread)"
    )


def test_nothing_to_do_is_all_idle():
    simulation = planned(servers(2))
    assert (simulation.jobs, simulation.tasks, simulation.attempts) == ((), (), ())
    assert sum(hour.idle for hour in simulation.hours) == 2 * 24 * 3600


# --- what is under way at the begin -------------------------------------------------------------------------


def test_what_executes_already_ends_after_what_is_left_of_its_duration():
    tasks = (
        SimTask("half done", 600, found=Found(State.EXECUTING, NOON - timedelta(minutes=4), 1, 1)),
        SimTask("overdue", 600, found=Found(State.EXECUTING, NOON - timedelta(minutes=40), 1, 1)),
        SimTask("next", 600, (Condition("half done"),)),
    )
    simulation = planned(servers(2), SimRun("J", tasks))
    assert times(simulation) == {"half done": (-4, 6), "overdue": (-40, 0), "next": (6, 16)}


def test_what_waits_already_goes_on_with_its_conditions_and_its_age():
    tasks = (
        SimTask("over", 60, found=Found(State.SUCCESS, NOON - HOUR, attempts=1)),
        SimTask("failed", 60, found=Found(State.ERROR, NOON - HOUR, attempts=1)),
        SimTask("blocked", 60, (Condition("failed"),), found=Found(State.DIDNT_RUN, NOON - HOUR)),
        SimTask("waiting", 60, (Condition("over"), Condition("old"))),
        SimTask("old", 60, found=Found(State.QUEUED, NOON - timedelta(minutes=5))),
        SimTask("again", 60, found=Found(State.READY, NOON + timedelta(minutes=9), attempts=1), fails=True, retries=1),
    )
    simulation = simulate(servers(1), [alike(1), SimRun("K", tasks)], NOON, NOON + HOUR)
    assert times(simulation) == {
        "T0": (1, 2), "over": (None, -60), "failed": (None, -60), "blocked": (None, -60),
        "old": (0, 1), "waiting": (2, 3), "again": (9, 10),
    }  # fmt: skip
    assert by_name(simulation)["old"].waited == timedelta(minutes=5)
    assert (by_name(simulation)["again"].state, by_name(simulation)["again"].attempts) == (State.ERROR, 2)
    assert simulation.jobs[1].verdict is RunState.ERROR


# --- against a slow simulator -------------------------------------------------------------------------------


@dataclass
class Night:
    """Random servers and a random job whose times are whole seconds, and what a clock may show meanwhile."""

    topology: Topology
    job: rules.Plan
    tasks: tuple[SimTask, ...]
    begin: datetime
    seconds: int


def random_night(rng: random.Random) -> Night:
    begin = NOON + timedelta(minutes=59, seconds=rng.choice([0, 30, 45]))
    seconds = rng.randint(20, 70)
    job = rules.random_plan(rng.randint(1, 12), rng, levels=rng.randint(0, 2), gates=rng.choice([0, 0.2]), early=True)
    tasks = tuple(
        SimTask(
            name,
            rng.choice([0, 1, 2, 5, 9, 20]),
            tuple(map(condition_of, conditions)),
            Join(job.joins[name]),
            rng.choice(GROUPS),
            rng.randint(0, 3),
            rng.random() < 0.25,
            name in job.ignored,
            gate=name in job.gates,
        )
        for name, conditions in job.after.items()
    )
    found = tuple(random_server(rng, number, begin, seconds) for number in range(1, rng.randint(1, 3) + 1))
    return Night(Topology(found), job, tasks, begin, seconds)


def random_server(rng: random.Random, number: int, begin: datetime, seconds: int) -> Server:
    def clock() -> time:
        return (begin + rng.randint(-5, seconds) * SECOND).time()

    windows = tuple(Window(clock(), clock(), rng.randint(0, 3), "UTC") for _ in range(rng.randint(0, 3)))
    groups = frozenset(group for group in GROUPS if rng.random() < rng.choice([0, 0.5]))
    return Server(number, f"AOS{number}", rng.randint(0, 3), groups, windows, enabled=rng.random() < 0.9)


class Slow:
    """Plays a night second by second, by the rules as naive as their text; who takes what it asks of the simulation."""

    def __init__(self, night: Night, simulation: Simulation) -> None:
        self.night = night
        self.places = {task.task: task.server for task in simulation.tasks}
        self.tasks = {task.name: task for task in night.tasks}
        self.states = dict.fromkeys(self.tasks, "waiting")
        self.ready: dict[str, int] = {}
        self.started: dict[str, int] = {}
        self.ended: dict[str, int] = {}
        self.sums: Counter[str] = Counter()
        self.history: list[str] = []
        bound = {server.name: server.groups for server in night.topology.servers}
        self.served = {name: rules.serves(bound, name, GROUPS) for name in bound}

    def play(self) -> None:
        self.end(0)  # gates may have ended
        for second in range(self.night.seconds):
            while self.end(second) or self.start(second):
                pass
            self.book(second)
        self.end(self.night.seconds)

    def threads(self, second: int) -> dict[str, int]:
        """What each server's windows allow, by comparing clocks."""
        clock = (self.night.begin + second * SECOND).time()
        return {server.name: threads_of(server, clock) for server in self.night.topology.servers}

    def busy(self) -> Counter[str | None]:
        return Counter(self.places[name] for name, state in self.states.items() if state == "executing")

    def free(self, second: int) -> dict[str, int]:
        busy = self.busy()
        return {name: max(0, most - busy[name]) for name, most in self.threads(second).items()}

    def end(self, second: int) -> bool:
        over = [
            name
            for name, state in self.states.items()
            if state == "executing" and second >= self.started[name] + self.tasks[name].seconds
        ]
        before = dict(self.states)
        self.states |= {name: "error" if self.tasks[name].fails else "success" for name in over}
        self.states = rules.settled(self.night.job, self.states)
        for name, state in self.states.items():
            if state != before[name]:
                (self.ready if state == "ready" else self.ended)[name] = second
        self.history += [f"fails {name}" for name in over if self.states[name] == "error"]
        return bool(over)

    def start(self, second: int) -> bool:
        waiting = [name for name, state in self.states.items() if state == "ready"]
        waiting.sort(key=lambda name: (-self.tasks[name].priority, self.ready[name]))
        groups = [self.tasks[name].group for name in waiting]
        allowed = rules.fitting(groups, self.free(second), self.served)
        for name, allow in zip(waiting, allowed, strict=True):
            if allow:
                place = self.places[name]
                assert place is not None, f"{name} could start after {second} s, and does not"
                assert self.tasks[name].group in self.served[place]
                assert self.free(second)[place] > 0, f"{place} has no free thread for {name} after {second} s"
                self.states[name] = "executing"
                self.started[name] = second
                self.history.append(f"starts {name}")
        return any(allowed)

    def book(self, second: int) -> None:
        busy, threads = self.busy(), self.threads(second)
        self.sums["threads"] += sum(threads.values())
        self.sums["busy"] += busy.total()
        self.sums["idle"] += sum(self.free(second).values())
        self.sums["missing"] += list(self.states.values()).count("ready")


def threads_of(server: Server, clock: time) -> int:
    if not server.enabled:
        return 0
    if not server.windows:
        return server.threads
    return max((window.threads for window in server.windows if covers(window, clock)), default=0)


def covers(window: Window, clock: time) -> bool:
    if window.start < window.end:
        return window.start <= clock < window.end
    return clock >= window.start or clock < window.end


def seconds(instants: Mapping[str, datetime | None], begin: datetime) -> dict[str, float]:
    return {name: (instant - begin) / SECOND for name, instant in instants.items() if instant is not None}


@settings(max_examples=400, deadline=None)
@given(st.randoms(use_true_random=True))
def test_a_random_night_goes_as_one_that_is_played_second_by_second(rng):
    night = random_night(rng)
    end = night.begin + night.seconds * SECOND
    simulation = simulate(night.topology, [SimRun("J", night.tasks)], night.begin, end)
    slow = Slow(night, simulation)
    slow.play()

    found = by_name(simulation)
    assert {name: task.state for name, task in found.items()} == slow.states
    assert seconds({name: task.ready_at for name, task in found.items()}, night.begin) == slow.ready
    assert seconds({name: task.started_at for name, task in found.items()}, night.begin) == slow.started
    assert seconds({name: task.ended_at for name, task in found.items()}, night.begin) == slow.ended
    assert sums(simulation) == {name: pytest.approx(slow.sums[name]) for name in sums(simulation)}
    if all(state in rules.ENDS for state in slow.states.values()):
        assert simulation.jobs[0].verdict == rules.verdict(night.job, slow.states, slow.history)
        assert seconds({"J": simulation.jobs[0].ended_at}, night.begin)["J"] == max(slow.ended.values())
    else:
        assert simulation.jobs[0].verdict is None


def sums(simulation: Simulation) -> dict[str, float]:
    return {
        "threads": total(hour.threads for hour in simulation.hours),
        "busy": total(hour.busy for hour in simulation.hours),
        "idle": sum(hour.idle for hour in simulation.hours),
        "missing": sum(hour.missing for hour in simulation.hours),
    }


def total(hours: Iterable[Mapping[str, float]]) -> float:
    return sum(sum(hour.values()) for hour in hours)


def test_ten_thousand_tasks_in_a_row_or_side_by_side_need_no_recursion():
    chain = SimRun("J", tuple(SimTask(f"T{n}", 10, (Condition(f"T{n - 1}"),) if n else ()) for n in range(10_000)))
    assert planned(servers(1), chain, hours=48).jobs[0].ended_at == NOON + 100_000 * SECOND
    assert planned(servers(100), alike(10_000, 10), hours=48).jobs[0].ended_at == NOON + 1000 * SECOND
    blocked = replace(chain, tasks=(replace(chain.tasks[0], fails=True), *chain.tasks[1:]))
    assert planned(servers(1), blocked).jobs[0].ended_at == NOON + 10 * SECOND


# --- limits and aging (rules 28, 29) ------------------------------------------------------------------------


def test_a_plan_holds_the_limits_as_rule_29_says():
    seen = replace(servers(4), units={"limit:a": 1, "job:J": 3}, per_run={"BG1": 2})
    plan = planned(seen, alike(3, limits=("limit:a",)))
    assert [start for start, _ in times(plan).values()] == [0, 1, 2]
    assert [start for start, _ in times(planned(seen, alike(4, limits=("job:J",)))).values()] == [0, 0, 0, 1]
    both = planned(seen, alike(3, group="BG1"), replace(alike(1, group="BG1"), name="K"))
    assert Counter(start.start for start in both.attempts) == {NOON: 3, NOON + timedelta(minutes=1): 1}


@pytest.mark.parametrize(("aging", "minute"), [(600, 20), (0, 80)])
def test_in_a_plan_a_task_that_waits_rises_as_rule_28_says(aging, minute):
    tasks = [SimTask("L", 60, priority=0)]
    for number in range(40):
        before = (Condition(f"H{number - 1}"),) if number else ()
        tasks.append(SimTask(f"H{number}", 60, before, priority=2))
    # A second chain keeps a task of `high` ready whenever the thread comes free.
    tasks += [SimTask(f"G{n}", 60, (Condition(f"G{n - 1}"),) if n else (), priority=2) for n in range(40)]
    plan = simulate(servers(1), [SimRun("J", tuple(tasks))], NOON, NOON + 3 * HOUR, aging=aging)
    assert times(plan)["L"][0] == minute
