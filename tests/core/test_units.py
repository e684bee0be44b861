"""Limits, kept units and aging, held against brute force (rules 28, 29)."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchq.core import lacking
from batchq.core.admission import Matching, choose, free_threads, lanes_wanted, surplus
from batchq.core.limits import Lane, Units, named, of_job, of_run, written
from batchq.core.priority import class_now, in_order
from batchq.core.topology import Server, Topology

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
SEEDS = pytest.mark.parametrize("rng", [random.Random(seed) for seed in range(60)], ids=map(str, range(60)))
NAMES = ("a", "b", "c")
Offer = tuple[int, Lane, bool]


# --- aging (rule 28) ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("own", "minutes", "aging", "now"),
    [
        (0, 0, 600, 0), (0, 9.99, 600, 0), (0, 10, 600, 1), (0, 20, 600, 2), (0, 30, 600, 3), (0, 500, 600, 3),
        (1, 10, 600, 2), (2, 10, 600, 3), (3, 500, 600, 3), (2, -60, 600, 2), (0, 500, 0, 0), (1, 59.9, 3600, 1),
        (1, 60, 3600, 2),
    ],
)  # fmt: skip
def test_a_task_rises_by_one_class_for_each_whole_aging_as_rule_28_says(own, minutes, aging, now):
    assert class_now(own, NOON - timedelta(minutes=minutes), NOON, aging) == now


class Waiter:
    def __init__(self, id: int, own_class: int, minutes: int) -> None:
        self.id, self.own_class, self.ready_at = id, own_class, NOON - timedelta(minutes=minutes)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 60)), max_size=20), st.sampled_from([0, 300, 600, 3600]))
def test_the_order_is_class_now_then_age_then_number_as_rule_28_says(tasks, aging):
    waiting = [Waiter(number, own, minutes) for number, (own, minutes) in enumerate(tasks)]
    ordered = in_order(waiting, NOON, aging)
    for one, next_ in pairwise(ordered):
        classes = [class_now(each.own_class, each.ready_at, NOON, aging) for each in (one, next_)]
        assert classes[0] > classes[1] or (
            classes[0] == classes[1] and (one.ready_at, one.id) < (next_.ready_at, next_.id)
        )


@given(st.integers(0, 3), st.integers(0, 3), st.integers(181, 500))
def test_after_three_times_the_aging_only_older_tasks_go_first_as_rule_28_says(own, other, minutes):
    old, young = Waiter(2, own, minutes), Waiter(1, other, minutes - 1)
    assert in_order([young, old], NOON, 3600)[0] is old


# --- an oracle ----------------------------------------------------------------------------------------------


class Tokens:
    """Units as a bag of tokens, counted by hand."""

    def __init__(self, seen: Topology, used: Mapping[Lane, int]) -> None:
        self.left: Counter[tuple[str, str]] = Counter()
        for key, units in seen.units.items():
            self.left[key, ""] += units
        self.per_run, self.known = seen.per_run, set(seen.units)
        self.begun: set[tuple[str, str]] = set()
        for lane, number in used.items():
            for purse in self.purses(lane):
                self.left[purse] -= number

    def purses(self, lane: Lane) -> list[tuple[str, str]]:
        found = []
        for key in lane.keys:
            if key.startswith("run:"):
                if lane.group in self.per_run:
                    purse = (key, lane.group)
                    if purse not in self.begun:
                        self.begun.add(purse)
                        self.left[purse] += self.per_run[lane.group]
                    found.append(purse)
            elif key in self.known:
                found.append((key, ""))
        return found

    def pay(self, lane: Lane) -> bool:
        purses = self.purses(lane)
        if any(self.left[purse] <= 0 for purse in purses):
            return False
        for purse in purses:
            self.left[purse] -= 1
        return True

    def keep(self, lane: Lane) -> None:
        for purse in self.purses(lane):
            self.left[purse] -= self.left[purse] > 0


def by_hand(offered: Sequence[Offer], threads: int, tokens: Tokens) -> list[int]:
    """The candidates that get a ticket, where every thread takes every group."""
    chosen = []
    for key, lane, waited_long in offered:
        if len(chosen) == threads:
            if waited_long and not tokens.pay(lane):
                tokens.keep(lane)
            continue
        if tokens.pay(lane):
            chosen.append(key)
        elif waited_long:
            tokens.keep(lane)
    return chosen


def a_world(rng: random.Random) -> tuple[Topology, list[Lane], dict[Lane, int]]:
    """Servers that take all, limits, the lanes of three runs, and how many tasks of each have units."""
    servers = tuple(Server(number, f"AOS{number}", rng.randint(0, 3)) for number in (1, 2, 3))
    units = {named(name): rng.randint(0, 3) for name in NAMES if rng.random() < 0.8} | {of_job(7): rng.randint(0, 4)}
    per_run = {"default": rng.randint(0, 3)} if rng.random() < 0.5 else {}
    seen = Topology(servers, units=units, per_run=per_run)
    lanes = []
    for number in range(1, 7):
        keys = [named(name) for name in NAMES if rng.random() < 0.4]
        keys += [of_job(7)] if rng.random() < 0.3 else []
        group = rng.choice(("default", "BG1"))
        keys += [of_run(rng.randint(1, 2))] if group in per_run else []
        lanes.append(Lane(number, group, tuple(sorted(keys))))
    used = {lane: rng.randint(0, 2) for lane in lanes}
    return seen, lanes, used


@SEEDS
def test_who_gets_a_ticket_is_what_counting_by_hand_gives_as_rule_29_says(rng):
    seen, lanes, used = a_world(rng)
    free = free_threads(seen, {}, NOON)
    offered = [(number, rng.choice(lanes), rng.random() < 0.4) for number in range(12)]
    admitted = choose(offered, Matching(seen, free), Units(seen, used))
    assert admitted.chosen == by_hand(offered, sum(free.values()), Tokens(seen, used))


@SEEDS
def test_no_limit_is_ever_exceeded_as_rule_29_says(rng):
    seen, lanes, used = a_world(rng)
    offered = [(number, rng.choice(lanes), rng.random() < 0.4) for number in range(12)]
    chosen = set(choose(offered, Matching(seen, free_threads(seen, {}, NOON)), Units(seen, used)).chosen)
    after = Counter(used)
    after.update(lane for number, lane, _ in offered if number in chosen)
    before, left = Tokens(seen, used), Tokens(seen, after)
    for lane in lanes:
        for purse in [*before.purses(lane), *left.purses(lane)]:
            assert left.left[purse] >= min(0, before.left[purse])


@SEEDS
def test_looking_at_no_more_of_a_lane_than_wanted_admits_the_same(rng):
    """Nobody has waited long here; of a lane that keeps units, the first task keeps them for all."""
    seen, lanes, used = a_world(rng)
    free = free_threads(seen, {}, NOON)
    offered = [(number, rng.choice(lanes), False) for number in range(15)]
    wanted = lanes_wanted({lane for _, lane, _ in offered}, Matching(seen, free), Units(seen, used), NOON)
    looked, taken = [], Counter()
    for offer in offered:
        taken[offer[1]] += 1
        if taken[offer[1]] <= wanted.get(offer[1], 0):
            looked.append(offer)
    assert (
        choose(looked, Matching(seen, free), Units(seen, used)).chosen
        == choose(offered, Matching(seen, free), Units(seen, used)).chosen
    )


@SEEDS
def test_the_newest_tickets_beyond_a_limit_go_back_as_rule_29_says(rng):
    seen, lanes, used = a_world(rng)
    free = free_threads(seen, {}, NOON)
    out = [(number, rng.choice(lanes)) for number in range(10)]
    stay = by_hand([(number, lane, False) for number, lane in out], sum(free.values()), Tokens(seen, used))
    assert surplus(out, seen, free, Units(seen, used)) == [number for number, _ in out if number not in stay]


# --- single cases -------------------------------------------------------------------------------------------

ONE = Topology((Server(1, "AOS1", 4),), units={named("a"): 1, named("b"): 1})
A, B, X = (
    Lane(1, "default", (named("a"),)),
    Lane(2, "default", (named("b"),)),
    Lane(3, "default", (named("a"), named("b"))),
)


@pytest.mark.parametrize(
    ("used", "offered", "chosen"),
    [
        ({}, [X, A, B], [0]),
        ({B: 1}, [X, A], [1]),
        ({B: 1}, [(X, True), A], []),
        ({B: 1}, [A, (X, True)], [0]),
        ({A: 1, B: 1}, [(X, True), A, B], []),
        ({B: 1}, [(X, True), (X, True), A], []),
        ({}, [(X, True), (X, True)], [0]),
    ],
    ids=str,
)
def test_a_task_that_lacks_a_unit_keeps_the_others_once_it_has_waited_as_rule_29_says(used, offered, chosen):
    offers = [(n, *((each, False) if isinstance(each, Lane) else each)) for n, each in enumerate(offered)]
    assert choose(offers, Matching(ONE, {1: 4}), Units(ONE, used)).chosen == chosen


def test_of_a_lane_that_lacks_one_of_several_units_the_first_is_read_while_a_server_is_open():
    units = Units(ONE, {B: 1})
    assert lanes_wanted([X, A, B], Matching(ONE, {1: 3}), units, NOON) == {X: 1, A: 1}
    closed = Topology((Server(1, "AOS1", 4), Server(2, "AOS2", 1, frozenset({"BG1"}), alive=False)), units=ONE.units)
    bound = Lane(4, "BG1", X.keys)
    assert lanes_wanted([bound, A], Matching(closed, {1: 3}), Units(closed, {B: 1}), NOON) == {A: 1}


def test_tasks_that_wait_to_be_moved_to_the_lane_of_their_run_do_not_start():
    seen = Topology((Server(1, "AOS1", 4),), per_run={"BG1": 2})
    plain, own = Lane(1, "BG1"), Lane(2, "BG1", (of_run(1),))
    assert lanes_wanted([plain, own], Matching(seen, {1: 4}), Units(seen, {own: 1}), NOON) == {own: 1}


def test_a_limit_that_is_gone_counts_no_more():
    lane = Lane(1, "default", (named("gone"),))
    assert Units(ONE, {lane: 9}).take(lane)
    assert written(["b", "a", "b"]) == '["a", "b"]'


# --- why (rule 40, rows 9 and 10) ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "units", "in_use", "holders", "kept", "said"),
    [
        ("limit:erp", 1, 1, ["JOB 1 / TASK 3 on AOS1"], [], "waits for erp (1 of 1: JOB 1 / TASK 3 on AOS1)"),
        ("limit:b", 1, 1, ["B-7 / T on AOS1"], ["a"], "waits for b (1 of 1: B-7 / T on AOS1); a is kept for it"),
        ("limit:b", 5, 5, list("vwxyz"), [], "waits for b (5 of 5: v, w, x, 2 more)"),
        ("limit:b", 0, 0, [], [], "waits for b, which has no units"),
        ("run:12", 4, 4, ["x"], [], "run 12 has 4 of 4 in BG1"),
        ("job:3", 8, 8, ["x"], [], "JOB 1 has 8 of 8"),
    ],
)
def test_a_task_says_which_unit_it_lacks_as_rule_40_says(key, units, in_use, holders, kept, said):
    assert lacking.lacks(lacking.Full(key, "BG1", units, in_use, holders, 12, "JOB 1"), kept) == said


def test_a_task_says_for_whom_units_are_kept_and_who_goes_first_as_rule_40_says():
    assert lacking.kept_for("limit:a", "JOB 9", "X") == "a is kept for JOB 9 / X"
    assert lacking.behind(1) == "behind 1 task of a higher class; aging is off"
    assert lacking.holder("J", "T", None) == "J / T, which is handed out"
