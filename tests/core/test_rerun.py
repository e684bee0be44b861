"""What a retry says of its tasks, and what it makes of gates without a name (rules 33, 50, 52)."""

from __future__ import annotations

import pytest

from batchq.core.conditions import Join
from batchq.core.rerun import MOST_NAMES, Asked, Graph, Standing, failed, hopeless, rerun, some, started, unsure
from batchq.core.states import Outcome, State

A, B, GATE, T, S = range(1, 6)


def nested(a: State, b: State, gate: State, *, given_up: tuple[int, ...] = ()) -> Graph:
    """T after A and one of (B), S after T; the gate of the inner join has no name for people."""
    standing = {
        A: Standing("A", a, A),
        B: Standing("B", b, B),
        GATE: Standing("T.1", gate, GATE, gate=True, unnamed=True, given_up=GATE in given_up),
        T: Standing("T", State.CANCELED, T, given_up=True),
        S: Standing("S", State.CANCELED, S, given_up=True, unsure=True),
    }
    done = Outcome.SUCCESS
    conditions = {GATE: [Asked(B, done)], T: [Asked(A, done), Asked(GATE, done)], S: [Asked(T, done)]}
    return Graph.of(standing, conditions)


def test_a_sentence_speaks_of_the_task_behind_a_gate_without_a_name():
    graph = nested(State.SUCCESS, State.ERROR, State.DIDNT_RUN)
    assert hopeless(graph, rerun(graph, [T]), [T]) == ["T waits for B to succeed; retry B"]


@pytest.mark.parametrize("seed", [T, A])
def test_a_gate_without_a_name_that_was_canceled_counts_by_the_tasks_that_it_names(seed):
    graph = nested(State.SUCCESS, State.SUCCESS, State.CANCELED, given_up=(GATE,))
    plan = rerun(graph, [seed])
    again = {A: State.READY} if seed == A else {}
    assert plan.resets == {**again, GATE: State.SUCCESS, T: State.WAITING, S: State.WAITING}
    ready = State.WAITING if seed == A else State.READY
    assert plan.ends == {**again, GATE: State.SUCCESS, T: ready, S: State.WAITING}
    assert hopeless(graph, plan, [seed]) == []


def test_a_gate_without_a_name_that_was_canceled_resets_nothing_that_follows_it():
    graph = nested(State.ERROR, State.ERROR, State.CANCELED, given_up=(GATE,))
    assert failed(graph) == [A, B, T, S]
    assert rerun(graph, [S]).resets == {GATE: State.DIDNT_RUN, S: State.DIDNT_RUN}


@pytest.mark.parametrize("ids", [(3, 4), (4, 3)], ids=["inner first", "outer first"])
@pytest.mark.parametrize(
    ("a", "b", "inner_end", "outer_end", "t_end"),
    [
        (State.SUCCESS, State.SUCCESS, State.SUCCESS, State.SUCCESS, State.READY),
        (State.SUCCESS, State.ERROR, State.SUCCESS, State.DIDNT_RUN, State.DIDNT_RUN),
        (State.ERROR, State.SUCCESS, State.DIDNT_RUN, State.DIDNT_RUN, State.DIDNT_RUN),
    ],
)
def test_gates_without_names_that_stand_within_each_other_count_by_the_tasks_in_them(
    ids: tuple[int, int], a: State, b: State, inner_end: State, outer_end: State, t_end: State
):
    inner, outer = ids
    done = Outcome.SUCCESS
    tasks = {A: Standing("A", a, A), B: Standing("B", b, B), T + 1: Standing("T", State.CANCELED, T + 1, given_up=True)}
    for gate in sorted(ids):
        tasks[gate] = Standing(f"T.{gate}", State.CANCELED, gate, gate=True, unnamed=True, given_up=True)
    conditions = {inner: [Asked(A, done)], outer: [Asked(inner, done), Asked(B, done)], T + 1: [Asked(outer, done)]}
    graph = Graph.of(tasks, conditions)
    assert rerun(graph, [T + 1]).ends == {inner: inner_end, outer: outer_end, T + 1: t_end}


def test_the_tasks_that_hinder_a_retry_are_told_by_name():
    graph = nested(State.SUCCESS, State.QUEUED, State.WAITING)
    plan = rerun(graph, [B])
    assert started(graph, plan) == ["B"]
    assert unsure(graph, plan) == ["S"]
    assert unsure(graph, plan, accepted=S) == []


def test_of_many_names_the_first_are_told():
    assert some(["A", "B"]) == "A, B"
    assert some([str(number) for number in range(MOST_NAMES + 2)]) == "0, 1, 2, 3, 4, 2 more"


# --- which tasks are reset, and where they stand then -------------------------------------------------------

STATES = {"success": State.SUCCESS, "error": State.ERROR, "didn't run": State.DIDNT_RUN, "aborted": State.CANCELED}
# Tasks in their order: the state, the conditions, and `any` where one is enough. "gone" was canceled with its run.
Tasks = dict[str, tuple[str, dict[str, str]] | tuple[str, dict[str, str], str]]


def graph_of(tasks: Tasks) -> tuple[Graph, dict[str, int]]:
    """The graph of these tasks, and their ids."""
    ids = {name: number for number, name in enumerate(tasks, 1)}
    standing, conditions = {}, {}
    for name, (state, after, *joined) in tasks.items():
        id_, join = ids[name], Join(*joined or ["all"])
        gone = state == "gone"
        standing[id_] = Standing(name, State.CANCELED if gone else STATES[state], id_, join, given_up=gone)
        if after:
            conditions[id_] = [Asked(ids[before], Outcome(outcome)) for before, outcome in after.items()]
    return Graph.of(standing, conditions), ids


CHAIN: Tasks = {"A": ("error", {}), "B": ("didn't run", {"A": "success"}), "C": ("success", {"A": "error"})}
ONE_OF_TWO: Tasks = {"A": ("error", {}), "B": ("success", {}), "T": ("success", {"A": "error", "B": "success"}, "any")}
BOTH: Tasks = {"A": ("error", {}), "B": ("error", {}), "T": ("didn't run", {"A": "success", "B": "success"})}
ENDS = [
    # tasks, the seeds, the one of them that is accepted; where each reset task stands
    (CHAIN, "A", None, {"A": "ready", "B": "waiting", "C": "waiting"}),
    (CHAIN, "B", None, {"B": "didnt_run"}),
    (CHAIN, "C", None, {"C": "ready"}),
    (CHAIN, "A", "A", {"A": "success", "B": "ready", "C": "didnt_run"}),
    (CHAIN, "B", "B", {"B": "success"}),
    (ONE_OF_TWO, "A", None, {"A": "ready"}),  # B keeps T where it is
    (ONE_OF_TWO, "B", None, {"B": "ready"}),
    (ONE_OF_TWO, "AB", None, {"A": "ready", "B": "ready", "T": "waiting"}),
    (ONE_OF_TWO | {"B": ("error", {})}, "A", None, {"A": "ready", "T": "waiting"}),
    (ONE_OF_TWO | {"B": ("error", {})}, "B", None, {"B": "ready"}),  # T ran on A, which stays as it is
    (ONE_OF_TWO | {"B": ("error", {})}, "A", "A", {"A": "success", "T": "didnt_run"}),
    (ONE_OF_TWO, "AB", "B", {"A": "ready", "B": "success", "T": "ready"}),
    (BOTH, "A", "A", {"A": "success", "T": "didnt_run"}),
    (BOTH, "AB", "A", {"A": "success", "B": "ready", "T": "waiting"}),
    (BOTH | {"B": ("success", {})}, "A", "A", {"A": "success", "T": "ready"}),
    (BOTH | {"B": ("gone", {})}, "A", None, {"A": "ready", "T": "didnt_run"}),
    (BOTH | {"B": ("aborted", {})}, "AB", None, {"A": "ready", "B": "ready", "T": "waiting"}),
    (BOTH | {"S": ("success", {"T": "skipped"})}, "A", None, {"A": "ready", "T": "didnt_run", "S": "ready"}),
]


@pytest.mark.parametrize(("tasks", "seeds", "accepted", "expected"), ENDS)
def test_a_retry_resets_what_follows_and_leaves_it_as_rules_33_and_54_say(
    tasks: Tasks, seeds: str, accepted: str | None, expected: dict[str, str]
):
    graph, ids = graph_of(tasks)
    plan = rerun(graph, [ids[name] for name in seeds], ids[accepted] if accepted else None)
    assert {graph.tasks[task].name: state.value for task, state in plan.ends.items()} == expected
    assert plan.resets.keys() == plan.ends.keys()


def test_a_retry_that_names_no_task_is_of_those_that_failed_were_aborted_or_were_canceled_as_rule_33d_says():
    tasks: Tasks = {name: (name, {}) for name in ("success", "error", "didn't run", "aborted", "gone")}
    graph, _ = graph_of(tasks)
    assert [graph.tasks[task].name for task in failed(graph)] == ["error", "aborted", "gone"]


HOPELESS = [
    # tasks, those that are named, the sentences
    (CHAIN, "B", ["B waits for A to succeed; retry A"]),
    (CHAIN, "C", []),
    (CHAIN, "AB", []),
    (BOTH, "AT", ["T waits for B to succeed; retry B"]),
    (BOTH, "T", ["T waits for A to succeed; retry A"]),
    (BOTH | {"B": ("gone", {})}, "AT", ["T waits for B to succeed, which was canceled; retry B"]),
    (ONE_OF_TWO | {"B": ("error", {})}, "T", []),  # A has failed, as it asks
    (ONE_OF_TWO | {"A": ("gone", {}), "B": ("error", {})}, "T", ["T waits for A to fail, which was canceled; retry A"]),
    (BOTH | {"S": ("didn't run", {"T": "success"})}, "AS", ["S waits for T to succeed; retry T"]),
]


@pytest.mark.parametrize(("tasks", "seeds", "sentences"), HOPELESS)
def test_a_retry_of_a_task_that_could_not_run_is_refused_with_what_it_waits_for_as_rule_33g_says(
    tasks: Tasks, seeds: str, sentences: list[str]
):
    graph, ids = graph_of(tasks)
    named_here = [ids[name] for name in seeds]
    assert hopeless(graph, rerun(graph, named_here), named_here) == sentences
