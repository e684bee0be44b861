"""Seeds played and judged, one after the other or on several processors, and how to play a failing one again."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

from drills.sim.checker import check
from drills.sim.world import World

KEPT = Path(__file__).parent / "seeds.txt"
CHUNK = 100


class Story(NamedTuple):
    """A seed, and the name of the fault that its world finds."""

    seed: int
    fault: str


def judged(seed: int) -> list[str]:
    """What broke an invariant in the world of this seed."""
    return check(World(seed).play())


def failures(seeds: Iterable[int]) -> dict[int, list[str]]:
    """The seeds that broke an invariant, and how."""
    return {seed: faults for seed in seeds if (faults := judged(seed))}


def told(seed: int, faults: list[str]) -> str:
    """The seed, what it broke, and how to play it again."""
    lines = "\n  ".join(faults[:10])
    again = f"again, from the folder tests: python -m drills.sim --seed {seed}"
    return f"seed {seed}: {len(faults)} violations\n  {lines}\n  {again}"


def stories() -> list[Story]:
    """The worlds that found a fault which was mended since."""
    lines = KEPT.read_text(encoding="utf-8").splitlines()
    words = [line.split() for line in lines if line.strip() and not line.startswith("#")]
    return [Story(int(seed), fault) for seed, fault, *_ in words]


def campaign(first: int, number: int, jobs: int) -> int:
    """Play so many seeds and print what failed, and the speed; returns how many failed."""
    began, failed, done = time.monotonic(), 0, 0
    for found in _spread(first, number, jobs):
        done = min(done + CHUNK, number)
        for seed, faults in found.items():
            print(told(seed, faults), flush=True)
        failed += len(found)
        if done == number or not done % (10 * CHUNK):
            speed = done / (time.monotonic() - began)
            print(f"{done:,} of {number:,} seeds, {failed} failed, {speed:.1f} seeds/s", flush=True)
    return failed


def _spread(first: int, number: int, jobs: int) -> Iterator[dict[int, list[str]]]:
    last = first + number
    chunks = [range(seed, min(seed + CHUNK, last)) for seed in range(first, last, CHUNK)]
    with ExitStack() as stack:
        play: Any = map
        if jobs > 1:
            play = stack.enter_context(get_context("spawn").Pool(jobs)).imap_unordered
        yield from play(failures, chunks)
