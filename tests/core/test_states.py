"""The states of tasks and runs: the tables are the rules, and nothing but them."""

from __future__ import annotations

import pytest

from batchq.core.states import (
    LABELS,
    MET_BY,
    MOVES,
    NOT_STARTED,
    RUN_ENDED,
    RUN_MOVES,
    RUN_OPEN,
    SYNONYMS,
    TERMINAL,
    Outcome,
    RunState,
    State,
    after_attempt,
    may_move,
)

# Rule 6, clause by clause.
RULE_6 = """
    waiting ready, ready queued, queued executing, executing success, executing error
    waiting didnt_run, waiting success
    ready executing
    queued ready
    executing ready
    executing canceled
    waiting canceled, ready canceled, queued canceled
    success waiting, error waiting, didnt_run waiting, canceled waiting
"""


def test_a_task_makes_the_moves_of_rule_6_and_no_others():
    moves = {tuple(move.split()) for line in RULE_6.strip().splitlines() for move in line.split(",")}
    assert {(before, after) for before in State for after in State if may_move(before, after)} == moves
    assert set(MOVES) == set(State)


def test_a_run_is_stored_executes_is_canceling_and_ends_with_a_verdict_as_rule_6_says():
    ends = {RunState.SUCCESS, RunState.ERROR, RunState.CANCELED}
    assert RUN_MOVES[RunState.EXECUTING] == ends | {RunState.CANCELING}
    assert RUN_MOVES[RunState.CANCELING] == {RunState.CANCELED}
    assert RUN_MOVES[RunState.STORING] == {RunState.EXECUTING, RunState.CANCELED}
    assert all(RUN_MOVES[end] == {RunState.EXECUTING} for end in ends)
    assert set(RUN_MOVES) == set(RunState)


def test_an_ended_task_only_goes_back_to_waiting_and_an_ended_run_is_no_longer_open():
    assert {state for state in State if MOVES[state] <= {State.WAITING}} == TERMINAL
    assert {state for state in State if State.CANCELED in MOVES[state]} == NOT_STARTED | {State.EXECUTING}
    assert not TERMINAL & NOT_STARTED
    assert set(RunState) == RUN_OPEN | RUN_ENDED
    assert not RUN_OPEN & RUN_ENDED


@pytest.mark.parametrize(
    ("outcome", "ends"),
    [
        (Outcome.SUCCESS, {State.SUCCESS}),
        (Outcome.ERROR, {State.ERROR}),
        (Outcome.FINISHED, {State.SUCCESS, State.ERROR}),
    ],
)
def test_didnt_run_and_canceled_meet_no_condition_not_even_finished_as_rule_4_says(outcome, ends):
    assert MET_BY[outcome] == ends


def test_every_synonym_on_input_means_one_of_the_five_outcomes():
    words = {
        "success": "success ended succeeded ok afterok",
        "error": "error failure failed afternotok",
        "finished": "finished done afterany ended_or_error",
        "skipped": "skipped omitted not_run didnt_run",
        "over": "over always all_done",
    }
    assert {word: outcome.value for word, outcome in SYNONYMS.items()} == {
        word: outcome for outcome, all_words in words.items() for word in all_words.split()
    }


def test_people_see_the_vendors_labels_of_rule_6():
    assert set(LABELS) == {*State, *RunState, "withhold"}
    assert set(LABELS.values()) == {
        "Withhold", "Storing", "Waiting", "Ready", "Executing", "Ended", "Error", "Didn't run", "Canceling",
        "Canceled",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("attempt", "facts", "state"),
    [
        (1, {"ok": True}, State.SUCCESS),
        (6, {"ok": True, "retries": 5, "canceling": True, "final": True}, State.SUCCESS),
        (1, {"ok": False}, State.ERROR),  # retries 0: at most one start in all (rule 31)
        (1, {"ok": False, "retries": 1}, State.READY),
        (2, {"ok": False, "retries": 1}, State.ERROR),
        (5, {"ok": False, "retries": 5}, State.READY),
        (6, {"ok": False, "retries": 5}, State.ERROR),  # n + 1 starts at most
        (1, {"ok": False, "retries": 5, "canceling": True}, State.ERROR),  # rule 32: no further attempt
        (1, {"ok": False, "retries": 5, "final": True}, State.ERROR),  # rule 30: the operation said so
    ],
)
def test_an_attempt_ends_in_success_in_error_or_in_another_attempt_as_rules_30_to_32_say(attempt, facts, state):
    assert after_attempt(attempt=attempt, **{"retries": 0} | facts) is state
