"""The long run: `python -m drills.sim 100000` in the folder tests; `--seed N` plays one seed and tells of it."""

from __future__ import annotations

import argparse
from contextlib import nullcontext

from drills.sim.books import driver
from drills.sim.checker import check
from drills.sim.faults import FAULTS
from drills.sim.runs import campaign, told
from drills.sim.world import World


def _tell(seed: int) -> int:
    """Play one seed, print its story commit by commit, and the judgement."""
    history = World(seed).play()
    for row in driver(history.database).execute("SELECT * FROM journal ORDER BY number"):
        print(*("" if value is None else value for value in row))
    for line in (*history.lines, *history.actions):
        print(line)
    faults = check(history)
    print(told(seed, faults) if faults else f"seed {seed}: no violations")
    return bool(faults)


def main() -> int:
    """Returns 1 if an invariant was broken."""
    parser = argparse.ArgumentParser(prog="python -m drills.sim", description=__doc__)
    parser.add_argument("number", nargs="?", type=int, default=2000, help="how many seeds (2,000)")
    parser.add_argument("--first", type=int, default=0, help="the first seed (0)")
    parser.add_argument("--jobs", type=int, default=1, help="how many processes play side by side (1)")
    parser.add_argument("--seed", type=int, help="play this seed alone, and tell all of it")
    parser.add_argument("--fault", choices=sorted(FAULTS), help="put this fault into the engine, in one process")
    given = parser.parse_args()
    with FAULTS[given.fault]() if given.fault else nullcontext():
        if given.seed is not None:
            return _tell(given.seed)
        return bool(campaign(given.first, given.number, 1 if given.fault else given.jobs))


if __name__ == "__main__":
    raise SystemExit(main())
