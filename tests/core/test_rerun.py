"""What a retry says of its tasks, and what it makes of gates without a name (rules 33, 50, 52)."""

from __future__ import annotations

import pytest

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


def test_the_tasks_that_hinder_a_retry_are_told_by_name():
    graph = nested(State.SUCCESS, State.QUEUED, State.WAITING)
    plan = rerun(graph, [B])
    assert started(graph, plan) == ["B"]
    assert unsure(graph, plan) == ["S"]
    assert unsure(graph, plan, accepted=S) == []


def test_of_many_names_the_first_are_told():
    assert some(["A", "B"]) == "A, B"
    assert some([str(number) for number in range(MOST_NAMES + 2)]) == "0, 1, 2, 3, 4, 2 more"
