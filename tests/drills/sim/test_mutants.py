"""The simulation finds what it is there to find: each of these faults in the engine is caught within a few seeds."""

from __future__ import annotations

import pytest

from drills.sim import mutants
from drills.sim.faults import FAULTS
from drills.sim.runs import campaign, judged, stories

MOST = 300
# Faults that a short run must meet.
SOON = {"holds_beside_a_dispatch": 20}
# Worlds that met rare faults when this was written: the search begins with them.
MET = {
    "ages_by_the_clock_of_the_process": 78,
    "believes_host_and_pid": 58,
    "cancels_all_but_tickets": 16,
    "keeps_tickets_that_cannot_be_sent": 123,
    "stops_at_a_ticket_that_cannot_be_sent": 62,
    "takes_tickets_by_their_task_alone": 45,
    "tries_what_the_database_refuses_for_ever": 14,
}
# Faults whose worlds are in seeds.txt: test_simulation.py plays them.
TOLD = {story.fault for story in stories()}


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault not in TOLD])
def test_a_fault_in_the_engine_is_caught(fault: str):
    most = SOON.get(fault, MOST)
    with FAULTS[fault]():
        worlds = (MET.get(fault, 0), *range(most))
        seed, broken = next(((seed, broken) for seed in worlds if (broken := judged(seed))), (None, []))
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
