"""The simulation finds what it is there to find: each of these faults in the engine is caught within a few seeds."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from drills.sim import mutants, steering_mutants
from drills.sim.runs import campaign, judged

MOST = 300
MUTANTS = [*mutants.MUTANTS, *steering_mutants.MUTANTS]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_a_fault_in_the_engine_is_caught(mutant: Callable[[], AbstractContextManager[None]]):
    with mutant():
        seed = next((seed for seed in range(MOST) if judged(seed)), None)
        faults = judged(seed) if seed is not None else []
    assert seed is not None, f"{MOST} worlds lived with it"
    assert all(fault.startswith("invariant") or "IntegrityError" in fault for fault in faults), "by what it does"
    assert not judged(seed), "and without the fault the same world breaks nothing"


def test_a_failing_seed_prints_itself_and_how_to_play_it_again(capsys: pytest.CaptureFixture[str]):
    with mutants.tries_once_too_often():
        assert campaign(first=0, number=20, jobs=1)
    printed = capsys.readouterr().out
    seed = printed.partition("seed ")[2].partition(":")[0]
    assert f"python -m drills.sim --seed {seed}\n" in printed
    assert "20 of 20 seeds, " in printed
