"""The simulation finds what it is there to find: each of these faults in the engine is caught within a few seeds."""

from __future__ import annotations

import pytest

from drills.sim import mutants
from drills.sim.faults import FAULTS
from drills.sim.runs import campaign, judged, stories

MOST = 300
# Faults that a short run must meet.
SOON = {"holds_beside_a_dispatch": 20}
# Faults whose seeds are known, and played by test_simulation.py.
TOLD = {story.fault for story in stories()}


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault not in TOLD])
def test_a_fault_in_the_engine_is_caught(fault: str):
    most = SOON.get(fault, MOST)
    with FAULTS[fault]():
        seed, broken = next(((seed, broken) for seed in range(most) if (broken := judged(seed))), (None, []))
    assert seed is not None, f"{most} worlds lived with it"
    assert all(each.startswith("invariant") or "IntegrityError" in each for each in broken), "by what it does"
    assert not judged(seed), "and without the fault the same world breaks nothing"


def test_a_failing_seed_prints_itself_and_how_to_play_it_again(capsys: pytest.CaptureFixture[str]):
    with mutants.tries_once_too_often():
        assert campaign(first=0, number=20, jobs=1)
    printed = capsys.readouterr().out
    seed = printed.partition("seed ")[2].partition(":")[0]
    assert f"python -m drills.sim --seed {seed}\n" in printed
    assert "20 of 20 seeds, " in printed
