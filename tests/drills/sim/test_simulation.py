"""Thousands of worlds, each with its own bad luck, keep every invariant; a seed always tells the same story."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from drills.sim.faults import FAULTS
from drills.sim.runs import Story, failures, judged, stories, told
from drills.sim.world import History, World

SEEDS, CHUNK = 200, 50  # the gate plays 2,000: `python -m drills.sim`, which can use all cores


@pytest.mark.slow  # the gate plays many more seeds beside its tests
@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_no_world_breaks_an_invariant(first: int):
    found = failures(range(first, first + CHUNK))
    assert not found, "\n".join(told(seed, faults) for seed, faults in found.items())


@pytest.mark.parametrize("story", stories(), ids=lambda story: str(story.seed))
def test_what_failed_once_does_not_fail_again(story: Story):
    faults = judged(story.seed)
    assert not faults, told(story.seed, faults)


@pytest.mark.parametrize("story", stories(), ids=lambda story: str(story.seed))
def test_a_world_that_found_a_fault_still_finds_it(story: Story):
    with FAULTS[story.fault]():
        faults = judged(story.seed)
    assert faults, f"the draws have changed: python -m drills.sim 500 --fault {story.fault}"


@pytest.mark.parametrize("seed", range(4))
def test_a_seed_tells_the_same_story_twice(seed: int):
    first = World(seed).play().fingerprint()
    World(seed + 1).play()
    assert World(seed).play().fingerprint() == first


STORY = """
import hashlib
from drills.sim.world import World
print(hashlib.sha256(repr(World(5).play().fingerprint()).encode()).hexdigest())
"""


def test_a_seed_tells_the_same_story_in_every_process():
    stories = set()
    for hashes in ("1", "2"):
        ran = subprocess.run(
            [sys.executable, "-c", STORY],
            cwd=Path(__file__).parents[2],
            env=os.environ | {"PYTHONHASHSEED": hashes},
            capture_output=True,
            text=True,
            check=True,
        )
        stories.add(ran.stdout)
    assert len(stories) == 1


def test_the_worlds_are_worth_living_in():
    """In some of them tasks start, fail, are lost, are tried again, are refused, and every kind of process dies."""
    missing = {"start", "end", "died", "ok: True", "ok: False", "tried again"}
    missing |= {"poisoned: True", "poisoned: False", "refused"}
    missing |= {"threads", "windows", "override", "bindings", "disable", "enable", "pause", "resume"}
    missing |= {"cancel", "hold", "release", "retry", "accept", "abort", "priority", "priority of run"}
    missing |= {"limit", "per run"}
    for seed in range(80):
        missing -= _seen(World(seed).play())
        if not missing:
            break
    assert not missing


def _seen(history: History) -> set[str]:
    seen = {line.word for line in history.lines} | {action.what for action in history.actions}
    seen |= {f"ok: {line.ok}" for line in history.lines}
    seen |= {"tried again" for line in history.lines if line.attempt > 1}
    seen |= {f"poisoned: {line.ok}" for line in history.lines if line.poisoned}
    return seen | {"refused" for until in history.refused_until.values() if until > history.calm_at}
