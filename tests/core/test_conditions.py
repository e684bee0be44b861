"""Conditions: met, impossible, settled, in order, and the verdict of a run: against the rules by brute force."""

from __future__ import annotations

import random
import re
import time
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchq.core.conditions import (
    Condition,
    Ended,
    Join,
    Joined,
    Node,
    find_cycle,
    leaves,
    order,
    readiness,
    resolution,
    resolved,
    settle,
    took_over,
    unfolded,
    verdict,
)
from batchq.core.states import TERMINAL, Outcome, RunState, State
from batchq.core.why import waits_for, why_not
from support import rules
from support.nodes import nodes_of

SUCCESS, ERROR, FINISHED, SKIPPED, OVER = Outcome
OPEN = [State.WAITING, State.READY, State.QUEUED, State.EXECUTING]
DEEP = 100_000
RANDOM = st.randoms(use_true_random=True)  # one draw of a seed, where the other kind draws every choice

JOB_1 = {
    "TASK 1": Node(),
    "TASK 2": Node((Condition("TASK 1", FINISHED),)),
    "TASK 3": Node((Condition("TASK 2"),)),
    "TASK 4": Node((Condition("TASK 2"),)),
    "TASK 5": Node((Condition("TASK 2", ERROR),)),
    "TASK 6": Node((Condition("TASK 3", ERROR),)),
    "TASK 7": Node((Condition("TASK 3"), Condition("TASK 4"))),
}


def words(states: dict[str, State]) -> dict[str, str]:
    return {name: state.value for name, state in states.items()}


# --- met, impossible, open (rules 3 to 5) -------------------------------------------------------------------


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("outcome", Outcome)
def test_a_condition_is_met_impossible_or_open_as_rules_3_and_4_say(outcome, state):
    met, impossible = rules.is_met(outcome, state), rules.is_impossible(outcome, state)
    assert resolution(outcome, state) is (True if met else False if impossible else None)


@pytest.mark.parametrize(
    ("join", "pending", "met", "impossible", "state"),
    [
        # all: when every condition is met; didn't run as soon as one is impossible
        ("all", 0, 0, 0, State.READY),
        ("all", 1, 1, 0, State.WAITING),
        ("all", 0, 2, 0, State.READY),
        ("all", 1, 0, 1, State.DIDNT_RUN),
        ("all", 0, 1, 1, State.DIDNT_RUN),
        # any: on the first one met; didn't run when all are impossible
        ("any", 0, 0, 0, State.READY),
        ("any", 2, 0, 0, State.WAITING),
        ("any", 2, 1, 1, State.READY),
        ("any", 1, 0, 2, State.WAITING),
        ("any", 0, 0, 3, State.DIDNT_RUN),
        ("any", 0, 1, 2, State.READY),
    ],
)
def test_all_waits_for_every_condition_and_any_for_the_first_as_rule_5_says(join, pending, met, impossible, state):
    assert readiness(Join(join), pending, met, impossible) is state


# --- settle (rules 2 to 5) ----------------------------------------------------------------------------------


def test_tasks_without_conditions_are_all_ready_at_once_as_rule_2_says():
    assert settle({"A": Node(), "B": Node(), "C": Node(join=Join.ANY)}, dict.fromkeys("ABC", State.WAITING)) == {
        "A": State.READY,
        "B": State.READY,
        "C": State.READY,
    }  # fmt: skip


def test_an_impossible_condition_spreads_didnt_run_to_a_fixed_point_as_rule_4_says():
    states = dict.fromkeys(JOB_1, State.WAITING) | {"TASK 1": State.SUCCESS, "TASK 2": State.ERROR}
    assert settle(JOB_1, states) == states | {
        "TASK 5": State.READY,
        **dict.fromkeys(["TASK 3", "TASK 4", "TASK 6", "TASK 7"], State.DIDNT_RUN),
    }


def test_any_starts_on_the_first_condition_met_without_waiting_for_the_rest_as_rule_5_says():
    nodes = {"A": Node(), "B": Node(), "C": Node((Condition("A"), Condition("B", ERROR)), Join.ANY)}
    states = {"A": State.ERROR, "B": State.EXECUTING, "C": State.WAITING}
    assert settle(nodes, states)["C"] is State.WAITING
    assert settle(nodes, states | {"A": State.SUCCESS})["C"] is State.READY
    assert settle(nodes, states | {"B": State.SUCCESS})["C"] is State.DIDNT_RUN


def test_settle_leaves_its_arguments_as_they_were():
    states = {"A": State.WAITING}
    settle({"A": Node()}, states)
    assert states == {"A": State.WAITING}


@settings(max_examples=400, deadline=None)
@given(st.integers(1, 60), RANDOM)
def test_settle_is_what_the_rules_give_from_any_mixture_of_states(tasks, rng):
    plan = rules.random_plan(tasks, rng)
    states = {name: rng.choice([State.WAITING, State.WAITING, *State]) for name in plan.after}
    assert words(settle(nodes_of(plan), states)) == rules.settled(plan, words(states))


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 60), RANDOM)
def test_settle_is_what_the_rules_give_after_every_step_of_a_random_play(tasks, rng):
    plan = rules.random_plan(tasks, rng)
    nodes = nodes_of(plan)
    states = settle(nodes, dict.fromkeys(nodes, State.WAITING))
    while ready := [name for name, state in states.items() if state is State.READY]:
        for name in rng.sample(ready, rng.randint(1, len(ready))):
            states[name] = rng.choice([State.SUCCESS, State.SUCCESS, State.ERROR, State.CANCELED])
        expected = rules.settled(plan, words(states))
        states = settle(nodes, states)
        assert words(states) == expected
    assert set(states.values()) <= TERMINAL


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 60), RANDOM)
def test_the_end_does_not_depend_on_which_ready_task_goes_first(tasks, rng):
    plan = rules.random_plan(tasks, rng)
    nodes = nodes_of(plan)
    failing = {name for name in nodes if rng.random() < 0.3}
    states = settle(nodes, dict.fromkeys(nodes, State.WAITING))
    while ready := [name for name, state in states.items() if state is State.READY]:
        name = rng.choice(ready)
        states = settle(nodes, states | {name: State.ERROR if name in failing else State.SUCCESS})
    assert words(states) == rules.played(plan, failing)


@pytest.mark.parametrize("examples", [500, pytest.param(2000, marks=pytest.mark.slow)])
def test_gates_joins_and_all_outcomes_settle_as_a_plain_evaluator_says_as_rules_4_and_50_say(examples):
    @settings(max_examples=examples, deadline=None)
    @given(st.integers(1, 30), RANDOM)
    def settle_alike(tasks, rng):
        plan = rules.random_plan(tasks, rng, levels=rng.randint(0, 4), gates=rng.choice([0, 0.3]))
        nodes = nodes_of(plan)
        states = settle(nodes, dict.fromkeys(nodes, State.WAITING))
        assert words(states) == rules.settled(plan, dict.fromkeys(plan.after, "waiting"))
        while ready := [name for name, state in states.items() if state is State.READY]:
            for name in rng.sample(ready, rng.randint(1, len(ready))):
                states[name] = rng.choice([State.SUCCESS, State.SUCCESS, State.ERROR, State.CANCELED])
            expected = rules.settled(plan, words(states))
            for name, node in nodes.items():
                assert [resolved(each, states) for each in node.after] == [
                    rules.comes_to(each, words(states)) for each in plan.after[name]
                ]
            states = settle(nodes, states)
            assert words(states) == expected
        assert set(states.values()) <= TERMINAL

    settle_alike()


def gate(*conditions: Condition | Joined, join: Join = Join.ALL) -> Node:
    return Node(conditions, join, gate=True)


A_FAILS = {"A": State.ERROR, "B": State.WAITING, "C": State.WAITING}


def test_a_gate_succeeds_as_soon_as_its_conditions_are_met_and_its_followers_see_it_as_rule_50_says():
    nodes = {"A": Node(), "B": gate(Condition("A", OVER)), "C": Node((Condition("B"),))}
    assert settle(nodes, A_FAILS) == {"A": State.ERROR, "B": State.SUCCESS, "C": State.READY}


def test_a_gate_without_conditions_succeeds_at_once_as_rule_50_says():
    nodes = {"A": gate(), "B": gate(Condition("A")), "C": Node((Condition("B"),))}
    assert settle(nodes, dict.fromkeys("ABC", State.WAITING)) == {
        "A": State.SUCCESS, "B": State.SUCCESS, "C": State.READY,
    }  # fmt: skip


def test_a_gate_whose_conditions_cannot_come_true_didnt_run_as_rule_50_says():
    nodes = {"A": Node(), "B": gate(Condition("A")), "C": Node((Condition("B", SKIPPED),))}
    assert settle(nodes, A_FAILS) == {"A": State.ERROR, "B": State.DIDNT_RUN, "C": State.READY}


def test_one_end_meets_skipped_and_over_and_misses_finished_in_the_same_round_as_rule_4_says():
    nodes = {
        "A": Node(),
        "B": Node((Condition("A"),)),
        "S": Node((Condition("B", SKIPPED),)),
        "O": Node((Condition("B", OVER),)),
        "F": Node((Condition("B", FINISHED),)),
        "N": Node((Condition("F", SKIPPED), Condition("B", OVER))),
    }
    ended = settle(nodes, dict.fromkeys(nodes, State.WAITING) | {"A": State.ERROR})
    assert words(ended) == {
        "A": "error", "B": "didnt_run", "S": "ready", "O": "ready", "F": "didnt_run", "N": "ready",
    }  # fmt: skip


def test_a_chain_of_100_000_gates_settles_in_a_moment_without_recursion():
    nodes = {"0": Node()} | {str(n): gate(Condition(str(n - 1))) for n in range(1, DEEP)}
    began = time.process_time()
    after = settle(nodes, dict.fromkeys(nodes, State.WAITING) | {"0": State.SUCCESS})
    assert time.process_time() - began < 2
    assert set(after.values()) == {State.SUCCESS}


def test_equal_joins_of_several_tasks_become_one_gate_which_no_person_can_name():
    inner = Joined(Join.ANY, (Condition("A"), Joined(Join.ALL, (Condition("B"), Condition("C")))))
    nodes = {name: Node() for name in "ABC"} | {name: Node((Condition("A"), inner)) for name in ("X", "Y")}
    plain = unfolded(nodes)
    gates = {name: node for name, node in plain.items() if node.gate}
    assert len(gates) == 2
    assert all(name.startswith(" ") for name in gates)
    assert plain["X"] == plain["Y"] == Node((Condition("A"), Condition(next(iter(gates)))))


def test_a_join_that_stands_alone_needs_no_gate():
    inner = Joined(Join.ANY, (Condition("A"), Condition("B", ERROR)))
    nodes = {"A": Node(), "B": Node(), "T": Node((Joined(Join.ALL, (inner,)),))}
    assert unfolded(nodes) == {"A": Node(), "B": Node(), "T": Node(inner.conditions, Join.ANY)}
    assert leaves(nodes["T"].after) == inner.conditions


def test_a_chain_of_100_000_that_didnt_run_settles_in_a_moment_without_recursion():
    nodes = {"0": Node()} | {str(n): Node((Condition(str(n - 1)),)) for n in range(1, DEEP)}
    states = dict.fromkeys(nodes, State.WAITING) | {"0": State.ERROR}
    began = time.process_time()
    after = settle(nodes, states)
    assert time.process_time() - began < 2
    assert set(after.values()) == {State.ERROR, State.DIDNT_RUN}


# --- order and circles (rule 1) -----------------------------------------------------------------------------


def test_every_task_stands_behind_those_it_follows():
    assert order({name: [c.task for c in node.after] for name, node in reversed(JOB_1.items())})[0] == "TASK 1"


def test_an_order_that_is_right_already_stays_as_given():
    after = {"A": [], "B": ["A"], "C": [], "D": ["C", "A", "C"], "E": []}
    assert order(after) == ["A", "B", "C", "D", "E"]


def test_what_stands_too_early_moves_only_behind_the_tasks_it_follows():
    assert order({"C": ["B"], "A": [], "B": ["A"], "D": []}) == ["A", "B", "C", "D"]


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 60), RANDOM)
def test_the_order_holds_every_task_once_behind_those_it_follows(tasks, rng):
    after = predecessors(rules.random_plan(tasks, rng))
    ordered = order(after)
    place = {name: position for position, name in enumerate(ordered)}
    assert sorted(ordered) == sorted(after)
    assert all(place[before] < place[name] for name in after for before in after[name])
    assert find_cycle(after) is None


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), RANDOM)
def test_a_circle_is_found_and_named_in_the_order_in_which_its_tasks_wait(tasks, length, rng):
    after = predecessors(rules.random_plan(tasks, rng))
    circle = rng.sample(list(after), min(length, tasks))
    for before, name in zip(circle, [*circle[1:], circle[0]], strict=True):
        after[name] = [*after[name], before]
    found = find_cycle(after)
    assert found is not None
    assert found[0] == found[-1]
    assert len(set(found)) == len(found) - 1
    assert all(before in after[name] for before, name in pairwise(found))
    assert not set(order(after)) & set(found)


def test_a_task_that_waits_for_itself_is_the_shortest_circle():
    assert find_cycle({"A": [], "B": ["A", "B"]}) == ["B", "B"]


def test_tasks_behind_a_circle_are_not_part_of_it():
    assert find_cycle({"D": ["C"], "A": ["C"], "B": ["A"], "C": ["B"]}) in (
        ["A", "B", "C", "A"],
        ["B", "C", "A", "B"],
        ["C", "A", "B", "C"],
    )


@pytest.mark.parametrize("closed", [False, True], ids=["chain", "circle"])
def test_a_chain_and_a_circle_of_100_000_take_under_two_seconds_without_recursion(closed):
    names = [f"TASK {number}" for number in range(DEEP)]
    after = {name: [before] for before, name in pairwise(names)}
    after = {names[0]: [names[-1]] if closed else []} | after
    began = time.process_time()
    cycle = find_cycle(after)
    assert time.process_time() - began < 2
    assert (len(cycle) if cycle else 0) == (DEEP + 1 if closed else 0)


def test_a_task_behind_100_000_others_is_ordered_in_under_two_seconds():
    names = [f"TASK {number}" for number in range(DEEP)]
    began = time.process_time()
    assert order({"LAST": names} | {name: [] for name in names})[-1] == "LAST"
    assert time.process_time() - began < 2


def predecessors(plan: rules.Plan) -> dict[str, list[str]]:
    return {name: [task for task, _, _ in plan.leaves(name)] for name in plan.after}


# --- the verdict (rule 7) -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tasks", "canceled", "expected"),
    [
        ([], False, "success"),
        ([Ended(State.SUCCESS), Ended(State.DIDNT_RUN)], False, "success"),
        ([Ended(State.SUCCESS), Ended(State.ERROR)], False, "error"),
        ([Ended(State.ERROR, ignore_failure=True)], False, "success"),
        ([Ended(State.ERROR, handled=True)], False, "success"),
        ([Ended(State.ERROR, handled=True), Ended(State.ERROR)], False, "error"),
        ([Ended(State.CANCELED, aborted=True)], False, "error"),
        ([Ended(State.CANCELED, aborted=True, ignore_failure=True)], False, "success"),
        ([Ended(State.CANCELED, aborted=True, handled=True)], False, "success"),
        ([Ended(State.CANCELED)], False, "success"),
        ([Ended(State.ERROR)], True, "canceled"),
        ([Ended(State.SUCCESS)], True, "canceled"),
    ],
)
def test_the_verdict_is_canceled_else_error_if_a_failure_counts_else_success_as_rule_7_says(tasks, canceled, expected):
    assert verdict(tasks, canceled=canceled) is RunState(expected)


NOON = datetime(2027, 6, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("started", "behind", "handles"),
    [
        (timedelta(seconds=1), False, True),
        (timedelta(), False, True),  # in the same transaction, which stores the failure first
        (timedelta(microseconds=-1), False, False),
        (timedelta(hours=-1), True, True),  # the clock was set back; but it could not start before
        (None, False, False),
    ],
)
def test_a_task_handles_a_failure_after_which_it_started_as_rule_7_says(started, behind, handles):
    assert took_over(NOON, None if started is None else NOON + started, behind=behind) is handles


# --- why (rule 40) ------------------------------------------------------------------------------------------

A, B, C, D, E = (Condition(name) for name in "ABCDE")


@pytest.mark.parametrize(
    ("node", "states", "sentence"),
    [
        (Node((A,)), {"A": "executing"}, "waits for A to succeed"),
        (Node((Condition("A", ERROR),)), {"A": "ready"}, "waits for A to fail"),
        (Node((Condition("A", FINISHED),)), {"A": "queued"}, "waits for A to finish"),
        (Node((A, B)), {"A": "success", "B": "waiting"}, "waits for B to succeed"),
        (Node((A, B)), {}, "waits for A to succeed and B to succeed"),
        (Node((A, Condition("B", ERROR)), Join.ANY), {}, "waits for A to succeed or B to fail"),
        (Node((A, B, C)), {}, "waits for A to succeed, B to succeed and C to succeed"),
        (Node((A, B, C, D, E)), {}, "waits for A to succeed, B to succeed, C to succeed and 2 more"),
        (Node((Condition("A", OVER),)), {"A": "ready"}, "waits for A to be over"),
        (Node((Condition("A", SKIPPED),)), {"A": "ready"}, "waits to see whether A runs"),
        (
            Node((A, Condition("B", SKIPPED), C)),
            {},
            "waits for A to succeed, to see whether B runs and for C to succeed",
        ),
        (
            Node((A, Joined(Join.ANY, (B, Condition("C", ERROR))))),
            {},
            "waits for A to succeed and (B to succeed or C to fail)",
        ),
        (
            Node((A, Joined(Join.ANY, (B, Condition("C", ERROR))))),
            {"A": "success"},
            "waits for B to succeed or C to fail",
        ),
        (Node((A, Joined(Join.ANY, (B, Condition("C", ERROR))))), {"B": "success"}, "waits for A to succeed"),
        (
            Node((A, Joined(Join.ANY, (B, Condition("C", ERROR))))),
            {"B": "error"},
            "waits for A to succeed and C to fail",
        ),
        (
            Node((A, Joined(Join.ANY, (B, Condition("C", SKIPPED))))),
            {},
            "waits for A to succeed and (for B to succeed or to see whether C runs)",
        ),
        (
            Node((Joined(Join.ANY, (A, Joined(Join.ALL, (B, C)))),)),
            {},
            "waits for A to succeed or (B to succeed and C to succeed)",
        ),
        (Node((A, B)), {"A": "success", "B": "success"}, "is about to start"),
        (Node(), {}, "is about to start"),
    ],
)
def test_a_waiting_task_says_what_it_waits_for(node, states, sentence):
    seen = dict.fromkeys("ABCDE", State.WAITING) | {name: State(state) for name, state in states.items()}
    assert waits_for(node, seen) == sentence


@pytest.mark.parametrize(
    ("conditions", "states", "sentence"),
    [
        ((A,), {"A": "error"}, "A failed"),
        ((Condition("A", ERROR),), {"A": "success"}, "A did not fail"),
        ((Condition("A", FINISHED),), {"A": "didnt_run"}, "A didn't run"),
        ((A, B), {"A": "success", "B": "canceled"}, "B was aborted"),
        ((Condition("A", SKIPPED),), {"A": "success"}, "A ran"),
        ((Condition("A", SKIPPED),), {"A": "error"}, "A ran"),
        ((Condition("A", FINISHED), Condition("B", OVER)), {"A": "didnt_run", "B": "canceled"}, "A didn't run"),
        (
            (A, Joined(Join.ANY, (B, Condition("C", ERROR)))),
            {"A": "success", "B": "error", "C": "success"},
            "B failed and C did not fail",
        ),
        ((A, B), {"A": "error", "B": "didnt_run"}, "A failed and B didn't run"),
        ((A, B), {"A": "success", "B": "success"}, "its conditions can no longer come true"),
    ],
)
def test_a_task_that_didnt_run_says_why(conditions, states, sentence):
    assert why_not(Node(conditions), {name: State(state) for name, state in states.items()}) == sentence


@pytest.mark.parametrize("outcome", Outcome)
@pytest.mark.parametrize("state", sorted(TERMINAL))
def test_every_way_to_miss_a_condition_has_its_words(outcome, state):
    sentence = why_not(Node((Condition("A", outcome),)), {"A": state})
    met = resolution(outcome, state)
    assert sentence.startswith("A ") is not met


@settings(max_examples=200, deadline=None)
@given(st.integers(2, 20), RANDOM)
def test_in_a_random_play_every_task_that_has_not_started_can_say_why(tasks, rng):
    plan = rules.random_plan(tasks, rng, levels=rng.randint(0, 4))
    nodes = nodes_of(plan)
    states = settle(nodes, {name: any_state(rng) for name in nodes})
    for name, state in states.items():
        if state is State.WAITING:
            assert re.match(r"waits \(*(for \(*|to see whether )TASK ", waits_for(nodes[name], states))
        elif state is State.DIDNT_RUN and nodes[name].after:
            assert why_not(nodes[name], states)


def any_state(rng: random.Random) -> State:
    return rng.choice([State.WAITING, State.WAITING, *OPEN, State.SUCCESS, State.ERROR, State.CANCELED])
