"""Outcomes, joins within joins and gates, played by the engine: the tables of rules 7, 50 and 53."""

from __future__ import annotations

import random
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from batchq import actions, engine, views
from batchq.core.conditions import Condition, Join, Joined
from batchq.core.simulation import simulate
from batchq.core.states import State
from batchq.core.topology import Server, Topology
from batchq.planning.guess import Guess
from batchq.planning.scene import see, simulated
from batchq.spec import Job, JobSpec, loads
from batchq.store.columns import TASK
from drills.sim.jobs import job_of
from play import Play, check_counters
from support import rules

EXAMPLES = {"sqlite": 250, "postgresql": 60}
PARTS = [pytest.param(5, id="a fifth"), pytest.param(1, id="all", marks=pytest.mark.slow)]
RANDOM = st.randoms(use_true_random=True)


@pytest.fixture
def batch(database):
    play = Play(database)
    for name in ("AOS1", "AOS2"):
        play.server(name, 2)
    return play


def job(text: str) -> JobSpec:
    """A job of these tasks, a line each."""
    tasks = "".join(f"  {line}\n" for line in text.splitlines())
    return loads(f"job: J\ntasks:\n{tasks}").jobs["J"]


def end(batch: Play, run: int, script: str) -> None:
    """Let tasks end one after the other: `A ok, B fails, C aborted, cancel`."""
    for act in filter(None, script.split(", ")):
        batch.deliver()
        name, _, how = act.partition(" ")
        if name == "cancel":
            batch.cancel(run)
        elif how == "aborted":
            batch.abort(name, run)
        else:
            batch.finish(name, ok=how == "ok", run=run)
    batch.deliver()


ALL_ANY = "{all: [A, {any: [B, C]}]}"
ANY_ALL = "{any: [{all: [A, B]}, C]}"

# T after | what happens | T's state, before anything else | the run once all has ended, with success
TABLE = [
    (ALL_ANY, "A ok, B fails, C ok", "executing", "error"),
    (ALL_ANY, "A ok, B fails, C fails", "didnt_run", "error"),
    (ALL_ANY, "B fails, C fails", "didnt_run", "error"),  # as soon as both failed
    (ALL_ANY, "A fails, B ok", "didnt_run", "error"),
    (ALL_ANY, "A ok", "waiting", "success"),
    (ANY_ALL, "A ok, B fails, C ok", "executing", "error"),
    (ANY_ALL, "A ok, B ok", "executing", "success"),  # without waiting for C
    (ANY_ALL, "A ok", "waiting", "success"),
    (ANY_ALL, "A fails, C fails", "didnt_run", "error"),
    ("{A: skipped}", "A ok", "didnt_run", "success"),
    ("{A: skipped}", "A fails", "didnt_run", "error"),
    ("{A: skipped}", "A aborted", "didnt_run", "error"),
    ("{D: skipped}", "A fails", "executing", "error"),
    ("{D: over}", "A fails", "executing", "error"),
    ("{D: finished}", "A fails", "didnt_run", "error"),
    ("[{A: over}, {D: over}]", "A fails", "executing", "error"),  # a notice at the end
    ("{A: over}", "A aborted", "executing", "error"),
    ("{A: finished}", "A aborted", "didnt_run", "error"),
    ("{A: error}", "A aborted", "didnt_run", "error"),
    ("{A: over}", "cancel", "canceled", "canceled"),
    ("{A: over}", "cancel, A ok", "canceled", "canceled"),
    ("{A: over}", "cancel, A fails", "canceled", "canceled"),
    ("{any: [{A: {outcome: error, handles: true}}, B]}", "B ok, T ok, A fails", "success", "error"),
    ("{any: [{A: {outcome: error, handles: true}}, B]}", "B fails, A fails, T ok", "success", "error"),
    ("{any: [{A: {outcome: error, handles: true}}, B]}", "A fails, T ok", "success", "success"),
    ("{all: [C, {any: [{A: {outcome: error, handles: true}}, B]}]}", "A fails, C ok, T fails", "error", "error"),
    ("{all: [C, {any: [{A: {outcome: error, handles: true}}, B]}]}", "A fails, C ok, T ok", "success", "success"),
    ("{all: [C, {any: [{A: {outcome: error, handles: true}}, B]}]}", "B ok, C ok, T ok, A fails", "success", "error"),
    ("{A: {outcome: over, handles: true}}", "A aborted, T ok", "success", "success"),
    ("{A: {outcome: finished, handles: true}}", "A fails, T ok", "success", "success"),
]


@pytest.mark.parametrize(("after", "script", "state", "verdict"), TABLE)
def test_outcomes_and_joins_go_as_the_tables_of_rules_4_7_and_50_say(batch, after, script, state, verdict):
    run = batch.submit(job(f"A: x\nB: x\nC: x\nD: {{run: x, after: A}}\nT: {{run: x, after: {after}}}"))
    end(batch, run, script)
    assert batch.states(run)["T"] == state
    while running := batch.executing():
        batch.finish(running[0], run=run)
        batch.deliver()
    assert batch.verdict(run) == verdict
    check_counters(batch.database)


def test_a_gate_needs_no_thread_and_succeeds_with_the_end_that_meets_it_as_rule_50_says(batch):
    run = batch.submit(job("A: x\nB: x\nG: {after: [A, {B: over}]}\nT: {run: x, after: G}"))
    batch.deliver()
    batch.finish("A")
    assert batch.states(run)["G"] == "waiting"
    batch.finish("B", ok=False)
    states = batch.states(run)
    assert states["G"] == "success"
    assert states["T"] in ("queued", "executing")  # in one commit
    batch.deliver()
    assert [start.task for start in batch.starts] == ["A", "B", "T"]
    row = batch.task(run, "G")
    assert (row.attempt, row.ready_at, row.claimed_at, row.gate, row.unnamed) == (0, None, None, True, False)


def test_a_gate_without_conditions_succeeds_when_its_run_opens_as_rule_50_says(batch):
    spec = job("G: {}\nH: {after: G}\nT: {run: x, after: H}\nU: {run: x, after: {G: skipped}}")
    run = engine.submit(batch.database, spec)
    assert batch.states(run) == {"G": "success", "H": "success", "T": "ready", "U": "didnt_run"}


def test_a_run_of_gates_alone_ends_when_it_opens(batch):
    run = engine.submit(batch.database, job("G: {}\nH: {after: {any: [G, {all: [G]}]}}"))
    assert batch.verdict(run) == "success"
    check_counters(batch.database)


def test_joins_within_joins_do_not_count_as_tasks_of_an_action_as_rule_50_says(batch):
    run = engine.submit(batch.database, job("A: x\nB: x\nT: {run: x, after: {all: [A, {any: [A, B]}]}}"))
    assert actions.hold_run(batch.database, run)["tasks"] == 3


def test_tasks_behind_gates_of_a_run_that_was_held_while_it_was_stored_become_ready_aside(batch, monkeypatch):
    monkeypatch.setattr(engine.submitting, "ROWS_PER_TRANSACTION", 1)
    opening = engine.submitting._open

    def held_first(tx: Any, runs: Any, now: Any, *, gates: bool) -> Any:
        engine.hold(tx, runs[0], now, "olav")
        while engine.move_on(tx, runs[0], now) is not None:
            pass
        return opening(tx, runs, now, gates=gates)

    monkeypatch.setattr(engine.submitting, "_open", held_first)
    run = engine.submit(batch.database, job("G: {}\nT: {run: x, after: G}\nU: x"))
    assert batch.states(run) == {"G": "success", "T": "ready", "U": "ready"}
    check_counters(batch.database)


def test_a_large_job_that_is_stored_in_chunks_opens_its_gates_too(batch, monkeypatch):
    monkeypatch.setattr(engine.submitting, "ROWS_PER_TRANSACTION", 3)
    spec = job("G: {}\nA: {run: x, after: {all: [G, {any: [G, {G: error}]}]}}\nB: {run: x, after: A}")
    run = engine.submit(batch.database, spec)
    assert batch.states(run) == {"G": "success", "A": "ready", "B": "waiting"}


def test_gates_that_share_their_conditions_succeed_together(batch):
    spec = Job("J")
    before = [spec.task(f"A{n}", "x") for n in range(3)]
    after = before[0] & before[1] & before[2]
    gates = [spec.gate(f"G{n}", after=after) for n in range(4)]
    for n, gate in enumerate(gates):
        spec.task(f"T{n}", "x", after=gate)
    spec.task("U", "x", after=after)
    run = batch.submit(spec)
    batch.deliver()
    for n in range(3):
        batch.finish(f"A{n}")
        batch.deliver()
    assert {name for name, state in batch.states(run).items() if state == "success"} == {
        *(f"A{n}" for n in range(3)), *(f"G{n}" for n in range(4)),
    }  # fmt: skip
    shared = [row for row in rows(batch, run) if row.waits_with is not None]
    assert {row.name for row in shared} <= {f"G{n}" for n in range(4)}
    assert shared
    while running := batch.executing():
        batch.finish(running[0])
        batch.deliver()
    assert batch.verdict(run) == "success"
    check_counters(batch.database)


def rows(batch: Play, run: int) -> list[Any]:
    with batch.database.read() as tx:
        return list(tx.execute(select(*TASK).where(TASK.run_id == run).order_by(TASK.id)))


def test_a_gate_is_canceled_with_its_run_as_rule_50_says(batch):
    run = batch.submit(job("A: x\nG: {after: {A: over}}\nT: {run: x, after: {all: [{G: over}, {any: [{A: over}]}]}}"))
    batch.deliver()
    batch.cancel(run)
    batch.finish("A")
    assert batch.states(run) == {"A": "success", "G": "canceled", "T": "canceled"}
    assert batch.verdict(run) == "canceled"


def test_the_gates_of_joins_have_names_that_no_person_can_give_and_stand_in_no_list_as_rule_50_says(batch):
    run = batch.submit(job("A: x\nB: x\nC: x\nT: {run: x, stage: load, after: {all: [A, {any: [B, C]}]}}"))
    (gate,) = [row for row in rows(batch, run) if row.unnamed]
    assert gate.name.startswith(" ")
    assert (gate.gate, gate.operation) == (True, "")
    assert {row.name: row.stage for row in rows(batch, run)}["T"] == "load"
    with batch.database.read() as tx:
        assert [task["name"] for task in views.run_view(tx, run)["tasks"]] == ["A", "B", "C", "T"]
        assert sum(views.runs(tx)[0]["tasks"].values()) == 4


def test_a_failure_within_a_join_is_shown_as_handled_by_the_task_behind_it_as_rule_7_says(batch):
    run = batch.submit(job("A: x\nC: x\nT: {run: x, after: {all: [C, {any: [{A: {outcome: error, handles: true}}]}]}}"))
    end(batch, run, "A fails, C ok, T ok")
    with batch.database.read() as tx:
        (line,) = [task for task in views.run_view(tx, run)["tasks"] if task["name"] == "A"]
    assert line["handled_by"] == "T"


def test_an_aborted_task_is_shown_as_handled_too_as_rule_7_says(batch):
    run = batch.submit(job("A: x\nT: {run: x, after: {A: {outcome: over, handles: true}}}"))
    end(batch, run, "A aborted, T ok")
    with batch.database.read() as tx:
        (line, _) = views.run_view(tx, run)["tasks"]
        assert (line["status"], line["handled_by"]) == ("canceled", "T")
        assert views.task_view(tx, run, "A")["handled_by"] == "T"


def test_an_open_run_is_planned_on_with_its_gates_and_joins_as_it_stands(batch):
    run = batch.submit(job("A: x\nB: x\nC: x\nG: {after: {A: over}}\nT: {run: x, after: {all: [G, {any: [B, C]}]}}"))
    end(batch, run, "A fails, B fails")
    with batch.database.read() as tx:
        (subject,) = see(tx, (), queue=True).queue
    tasks = {task.name: task for task in subject.job.tasks}
    inner = Joined(Join.ANY, (Condition("B"), Condition("C")))
    assert tasks["T"].after == (Condition("G"), inner)
    assert (tasks["G"].run, subject.found["G"].state) == (None, State.SUCCESS)
    now = batch.database.shown
    topology = Topology((Server(1, "AOS1", 2, alive=True), Server(2, "AOS2", 2, alive=True)))
    simulation = simulate(topology, [simulated(subject, Guess(), {})], now, now + timedelta(hours=1))
    assert [(each.task, each.state) for each in simulation.tasks] == [
        ("A", "error"), ("B", "error"), ("C", "success"), ("G", "success"), ("T", "success"),
    ]  # fmt: skip
    assert simulation.jobs[0].verdict == "error"


def test_why_speaks_of_the_tasks_within_joins_as_rules_40_and_50_say(batch):
    run = batch.submit(job("A: x\nB: x\nC: x\nT: {run: x, after: {all: [A, {any: [{B: skipped}, {C: over}]}]}}"))

    def why():
        with batch.database.read() as tx:
            (line,) = [task for task in views.run_view(tx, run)["tasks"] if task["name"] == "T"]
            one = views.task_view(tx, run, "T")
        assert one["why"] == line["why"]
        return line["why"], [each["task"] for each in one["after"]]

    assert why() == ("waits for A to succeed and (to see whether B runs or for C to be over)", ["A", "B", "C"])
    end(batch, run, "B ok")
    assert why() == ("waits for A to succeed and C to be over", ["A", "B", "C"])
    end(batch, run, "A aborted")
    assert why() == ("A was aborted", ["A", "B", "C"])


# --- against the plain evaluator ----------------------------------------------------------------------------


@pytest.mark.parametrize("part", PARTS)
def test_random_graphs_with_gates_joins_aborts_and_all_outcomes_end_as_rules_4_7_and_50_say(database, part):
    batch = Play(database)
    for name in ("AOS1", "AOS2"):
        batch.server(name, 3)

    @settings(max_examples=EXAMPLES[database.kind] // part, deadline=None)
    @given(st.integers(1, 16), RANDOM)
    def ends_as_the_rules_say(tasks, rng):
        plan = rules.random_plan(tasks, rng, levels=rng.randint(1, 4), gates=rng.choice([0, 0.3]), early=True)
        fates = {name: rng.choice(["success", "success", "error", "canceled"]) for name in plan.after}
        run, history = batch.submit(bound_nowhere(plan, rng)), list[str]()
        batch.deliver()
        while running := batch.running():
            for _, row in running:
                if (start := f"starts {row.name}") not in history:
                    history.append(start)
            _, row = rng.choice(running)
            if fates[row.name] != "success":
                history.append(f"fails {row.name}")
            if fates[row.name] == "canceled":
                batch.abort(row.name, run)
            else:
                batch.finish(row.name, ok=fates[row.name] == "success", run=run)
            batch.deliver()
        states = batch.states(run)
        failing = {name for name, fate in fates.items() if fate == "error"}
        aborted = {name for name, fate in fates.items() if fate == "canceled"}
        assert states == rules.played(plan, failing, aborted)
        assert batch.verdict(run) == rules.verdict(plan, states, history)

    ends_as_the_rules_say()
    check_counters(database)


def bound_nowhere(plan: rules.Plan, rng: random.Random) -> JobSpec:
    job, _ = job_of("RANDOM", plan, rng, retried=(0,))
    tasks = [task.model_copy(update={"group": None}) for task in job.tasks]
    return JobSpec(name=job.name, tasks=tuple(tasks))
