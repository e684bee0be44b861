"""Statements can only make the moves of rule 6."""

from __future__ import annotations

from itertools import product

import pytest

from batchq.core.states import MOVES, RUN_MOVES, RunState, State
from batchq.store.moves.becoming import becomes, run_becomes


@pytest.mark.parametrize(
    ("states", "table", "move"), [(State, MOVES, becomes), (RunState, RUN_MOVES, run_becomes)], ids=["task", "run"]
)
def test_a_move_can_be_stated_if_rule_6_knows_it_and_not_otherwise(states, table, move):
    for before, after in product(states, states):
        if after in table[before]:
            assert move(before, after).status == after.value
            continue
        with pytest.raises(ValueError, match=f"no move from {before.value} to {after.value}"):
            move(before, after)


def test_one_end_that_rule_6_does_not_know_refuses_the_whole_move():
    with pytest.raises(ValueError, match="no move from waiting to ready or executing"):
        becomes(State.WAITING, State.READY, State.EXECUTING)


def test_a_move_without_an_end_is_refused():
    with pytest.raises(ValueError, match="no move from ready to"):
        becomes(State.READY)
