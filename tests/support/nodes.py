"""The plans of `rules` in the values of `core`."""

from __future__ import annotations

from typing import Any

from batchq.core.conditions import Condition, Join, Joined, Node
from batchq.core.states import Outcome
from support import rules


def nodes_of(plan: rules.Plan) -> dict[str, Node]:
    """The tasks of a plan as their conditions see them."""
    return {
        name: Node(tuple(map(condition_of, conditions)), Join(plan.joins[name]), gate=name in plan.gates)
        for name, conditions in plan.after.items()
    }


def condition_of(written: Any) -> Condition | Joined:
    """A condition of a plan, or a join of several."""
    if len(written) == 2:
        return Joined(Join(written[0]), tuple(map(condition_of, written[1])))
    task, outcome, handles = written
    return Condition(task, Outcome(outcome), handles)
