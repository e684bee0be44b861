"""Who may run what, which ready tasks get a ticket, and why others wait: rules 10-13, 16, 19, 20, 40 by brute force."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, time
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchq.core.admission import (
    Admitted,
    Matching,
    free_threads,
    lanes_wanted,
    room,
    surplus,
)
from batchq.core.limits import Units
from batchq.core.topology import Server, Topology
from batchq.core.why import local, names, why_ready
from batchq.core.windows import Window
from support import rules
from support.plain import admit, lanes_of

GROUPS = ("default", "BG1", "BG2", "BG3")
NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)  # 14:00 in Oslo, a Monday
RANDOM = st.randoms(use_true_random=True)


def topology(**groups: str) -> Topology:
    """Servers with one thread each, bound to the groups named: `topology(AOS1="", AOS2="BG1 default")`."""
    return Topology(
        tuple(Server(id_, name, 1, frozenset(bound.split())) for id_, (name, bound) in enumerate(groups.items(), 1))
    )  # fmt: skip


def serving(seen: Topology, group: str) -> str:
    return " ".join(server.name for server in seen.serving(group))


def random_topology(rng: random.Random, servers: int) -> Topology:
    return Topology(
        tuple(
            Server(
                id=number,
                name=f"AOS{number}",
                threads=rng.randint(0, 3),
                groups=frozenset(group for group in GROUPS if rng.random() < rng.choice([0, 0.4])),
            )
            for number in range(1, servers + 1)
        )
    )


def served(seen: Topology) -> dict[str, set[str]]:
    """Which groups each server serves, by the formula of rule 12."""
    bound = {server.name: server.groups for server in seen.servers}
    return {name: rules.serves(bound, name, GROUPS) for name in bound}


def by_name(seen: Topology, free: Mapping[int, int]) -> dict[str, int]:
    return {seen.by_id[server].name: threads for server, threads in free.items()}


def random_tickets(rng: random.Random, most: int) -> list[str]:
    return [rng.choice(GROUPS) for _ in range(rng.randint(0, most))]


# --- who serves what (rules 10 to 13) -----------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 6), RANDOM)
def test_a_server_serves_what_the_formula_of_rule_12_says(servers, rng):
    seen = random_topology(rng, servers)
    for server in seen.servers:
        assert {group for group in GROUPS if seen.serves(server, group)} == served(seen)[server.name]


def test_a_server_without_affinity_takes_the_default_group_and_every_unbound_one_as_rule_11_says():
    seen = topology(AOS1="", AOS2="BG1")
    assert [group for group in ("default", "BG1", "BG2") if seen.serves(seen.by_id[1], group)] == [
        "default",
        "BG2",
    ]


def test_bg1_runs_on_aos2_and_aos3_only_and_they_take_nothing_else_as_rule_13_says():
    seen = topology(AOS1="", AOS2="BG1", AOS3="BG1")
    assert serving(seen, "BG1") == "AOS2 AOS3"
    assert serving(seen, "default") == "AOS1"
    assert serving(seen, "BG2") == "AOS1"


def test_the_default_group_can_be_added_to_a_bound_server_and_aos1_goes_on_taking_it_as_rule_13_says():
    seen = topology(AOS1="", AOS2="BG1 default", AOS3="BG1")
    assert serving(seen, "default") == "AOS1 AOS2"
    assert serving(seen, "BG1") == "AOS2 AOS3"


@pytest.mark.parametrize("state", [{"enabled": False}, {"alive": False}, {"threads": 0}])
def test_a_binding_counts_whatever_state_its_server_is_in_as_rule_12_says(state):
    seen = topology(AOS1="", AOS2="BG1")
    seen = Topology((seen.servers[0], replace(seen.servers[1], **state)))
    assert serving(seen, "BG1") == "AOS2"


# --- free threads (rules 16, 19, 20) ------------------------------------------------------------------------

NIGHT = Window(time(18), time(7, 30), 20, "Europe/Oslo")
DAY = Window(time(8), time(18), 2, "Europe/Oslo")


@pytest.mark.parametrize(
    ("server", "threads"),
    [
        (Server(1, "A", 8), 8),
        (Server(1, "A", 8, pool=4), 4),  # a thread is free when both the window and the pool have one
        (Server(1, "A", 8, pool=40), 8),
        (Server(1, "A", 8, windows=(NIGHT, DAY)), 2),  # with windows, `threads` is not used (rule 19)
        (Server(1, "A", 8, windows=(NIGHT,)), 0),
        (Server(1, "A", 8, enabled=False), 0),
        (Server(1, "A", 8, alive=False), 0),
    ],
)
def test_a_server_has_the_threads_of_its_window_and_pool_if_it_runs_and_is_enabled(server, threads):
    assert server.threads_now(NOON) == threads


def test_free_are_the_threads_that_nothing_executes_in_and_never_fewer_than_none():
    seen = Topology((Server(1, "A", 3), Server(2, "B", 1), Server(3, "C", 5, enabled=False)))
    assert free_threads(seen, {1: 1, 2: 4, 3: 1}, NOON) == {1: 2}
    assert free_threads(seen, {1: 1}, NOON, ahead=2) == {1: 4, 2: 3}  # a closed server gets none ahead either


def test_the_room_of_a_group_is_what_its_servers_have_free():
    seen = topology(AOS1="", AOS2="BG1", AOS3="BG1 default")
    free = {1: 1, 2: 2, 3: 4}
    assert [room(group, seen, free) for group in ("default", "BG1", "BG2")] == [5, 6, 1]


# --- tickets (rules 12, 16, 20, 28) -------------------------------------------------------------------------


@settings(max_examples=500, deadline=None)
@given(st.integers(1, 5), RANDOM)
def test_the_best_get_tickets_as_long_as_all_that_are_out_find_threads_of_their_own(servers, rng):
    seen = random_topology(rng, servers)
    free = free_threads(seen, {server.id: rng.randint(0, 2) for server in seen.servers}, NOON)
    out, ready = random_tickets(rng, 4), random_tickets(rng, 8)
    admitted = admit(list(enumerate(ready)), Counter(out), seen, free)
    # `out` in the order in which it is counted, as it has none of its own
    first = list(Counter(out).elements())
    fitting = rules.fitting(ready, by_name(seen, free), served(seen), first)
    assert admitted.chosen == [number for number, fits in enumerate(fitting) if fits]
    check_shares(seen, free, admitted, first, [ready[number] for number in admitted.chosen])


def check_shares(
    seen: Topology, free: Mapping[int, int], admitted: Admitted, out: list[str], chosen: list[str]
) -> None:
    """Each thread answers one ticket of a group that its server serves, and no ticket twice."""
    placed: Counter[str] = Counter()
    for server, share in admitted.shares.items():
        assert sum(share.values()) <= free[server]
        assert all(number >= 0 for number in share.values())
        assert {group for group, number in share.items() if number} <= served(seen)[seen.by_id[server].name]
        placed += Counter(share)
    fitting = rules.fitting(out, by_name(seen, free), served(seen))
    assert placed == Counter(chosen) + Counter(group for group, fits in zip(out, fitting, strict=True) if fits)


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 3), RANDOM)
def test_as_many_tickets_are_placed_as_any_assignment_to_threads_can_place(servers, rng):
    seen = random_topology(rng, servers)
    free = {server.id: rng.randint(0, 2) for server in seen.servers}
    tickets = random_tickets(rng, 5)
    matching = Matching(seen, free)
    placed = sum([matching.place(group) for group in tickets])
    threads = [seen.by_id[server] for server, number in free.items() for _ in range(number)]
    slots = [*threads, *[None] * len(tickets)]
    most = max(
        sum(server is not None and seen.serves(server, group) for server, group in zip(order, tickets, strict=False))
        for order in set(permutations(slots, len(tickets)))
    )  # fmt: skip
    assert placed == most


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 5), RANDOM)
def test_the_tickets_that_no_free_thread_answers_any_more_go_back_the_newest_first(servers, rng):
    seen = random_topology(rng, servers)
    free = {server.id: rng.randint(0, 2) for server in seen.servers}
    out = random_tickets(rng, 8)
    fitting = rules.fitting(out, by_name(seen, free), served(seen))
    back = surplus(lanes_of(enumerate(out)), seen, free, Units(seen, {}))
    assert back == [number for number, fits in enumerate(fitting) if not fits]


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 5), RANDOM)
def test_the_threads_left_over_are_those_that_no_ticket_out_can_have(servers, rng):
    seen = random_topology(rng, servers)
    free = {server.id: rng.randint(0, 2) for server in seen.servers}
    out = Counter(random_tickets(rng, 6))
    answered = sum(rules.fitting(list(out.elements()), by_name(seen, free), served(seen)))
    assert Matching(seen, free, out).open == sum(free.values()) - answered


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 5), RANDOM)
def test_looking_at_no_more_candidates_than_wanted_admits_the_same(servers, rng):
    seen = random_topology(rng, servers)
    free = {server.id: rng.randint(0, 2) for server in seen.servers}
    out = Counter(random_tickets(rng, 3))
    ready = list(enumerate(random_tickets(rng, 12)))
    lanes = {lane for _, lane in lanes_of(ready)}
    wanted = lanes_wanted(lanes, Matching(seen, free, out), Units(seen, {}), NOON)
    most = {lane.group: number for lane, number in wanted.items()}
    looked_at, taken = [], Counter()
    for key, group in ready:
        taken[group] += 1
        if taken[group] <= most.get(group, 0):
            looked_at.append((key, group))
    assert admit(looked_at, out, seen, free).chosen == admit(ready, out, seen, free).chosen


def test_a_ticket_moves_aside_for_one_that_only_its_thread_can_answer():
    seen = topology(AOS1="BG1 BG2", AOS2="BG1")
    assert admit([("a", "BG1"), ("b", "BG2")], {}, seen, {1: 1, 2: 1}) == Admitted(
        ["a", "b"], {1: {"BG1": 0, "BG2": 1}, 2: {"BG1": 1}}
    )


def test_a_chain_of_tickets_moves_aside_to_reach_the_one_free_thread():
    seen = topology(AOS1="BG1 BG2", AOS2="BG2 BG3", AOS3="BG3 BG4")
    admitted = admit([(g, g) for g in ("BG3", "BG2", "BG1")], {}, seen, {1: 1, 2: 1, 3: 1})
    assert admitted.chosen == ["BG3", "BG2", "BG1"]
    assert {server: +Counter(share) for server, share in admitted.shares.items()} == {
        1: {"BG1": 1},
        2: {"BG2": 1},
        3: {"BG3": 1},
    }


def test_a_group_without_a_thread_does_not_hold_up_the_ones_behind_it():
    seen = topology(AOS1="", AOS2="BG1")
    admitted = admit([(1, "BG1"), (2, "BG1"), (3, "default")], {}, seen, {1: 1, 2: 1})
    assert admitted.chosen == [1, 3]


def test_in_the_articles_second_walk_through_each_group_gets_the_threads_of_its_own_servers():
    seen = topology(AOS1="", AOS2="BG1", AOS3="BG1")
    ready = [(("BG1", n), "BG1") for n in range(60)] + [(("default", n), "default") for n in range(60)]
    free = {1: 4, 2: 4, 3: 4}
    chosen = admit(ready, {}, seen, free).chosen
    assert Counter(group for group, _ in chosen) == {"BG1": 8, "default": 4}
    with_default = topology(AOS1="", AOS2="BG1 default", AOS3="BG1")
    assert Counter(group for group, _ in admit(ready, {}, with_default, free).chosen) == {
        "BG1": 8,
        "default": 4,
    }
    late = admit(ready[60:], {}, with_default, free)
    assert len(late.chosen) == 8
    assert set(late.shares) == {1, 2, 3}
    assert not +Counter(late.shares[3])


# --- why (rule 40) ------------------------------------------------------------------------------------------

TUESDAY = Window(time(8), time(18), 2, "Europe/Oslo", frozenset({1}))
NEVER = Window(time(8), time(18), 0, "Europe/Oslo")
EVENING = Window(time(18), time(21), 5, "Europe/Oslo", only=NOON.date())
OFF = Window(time(0), time(0), 0, "Europe/Oslo", only=NOON.date())
VANISHED = replace(NIGHT, timezone="Mars/Base", vanished=True)
VANISHED_OFF = replace(OFF, timezone="Mars/Base", vanished=True)
BOUND = frozenset({"BG1"})
SIX = "18:00 Europe/Oslo"
NIGHTLY = "18:00-07:30 with 20 threads"


def aos(number: int, **facts: object) -> Server:
    return Server(number, f"AOS{number}", **{"threads": 2, "groups": BOUND} | facts)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("servers", "sentence"),
    [
        ([], "BG1: no server serves this group"),
        ([aos(1, groups=frozenset({"BG2"}))], "BG1: no server serves this group"),
        ([aos(2, enabled=False)], "BG1: AOS2 is disabled"),
        ([aos(2, enabled=False), aos(3, enabled=False, alive=False)], "BG1: AOS2 and AOS3 are disabled"),
        ([aos(2, alive=False)], "BG1: AOS2 does not run"),
        ([aos(2, alive=False), aos(3, enabled=False)], "BG1: AOS2 does not run"),
        ([aos(2, alive=False), aos(3, alive=False)], "BG1: AOS2 and AOS3 do not run"),
        ([aos(2, windows=(NIGHT,))], f"BG1: no server has an open window until {SIX} (AOS2, {NIGHTLY})"),
        (
            [aos(2, windows=(TUESDAY,))],
            "BG1: no server has an open window until Tue 02 Jun 08:00 Europe/Oslo (AOS2, 08:00-18:00 with 2 threads)",
        ),
        (
            [aos(2, windows=(TUESDAY,)), aos(3, windows=(NIGHT,))],
            f"BG1: no server has an open window until {SIX} (AOS3, {NIGHTLY})",
        ),
        (
            [aos(2, windows=(EVENING,)), aos(3, threads=3, windows=(OFF,))],
            f"BG1: no server has an open window until {SIX} (AOS2, 18:00-21:00 on 2026-06-01 with 5 threads)",
        ),
        (
            [aos(2, windows=(OFF,)), aos(3, windows=(TUESDAY,))],
            "BG1: no server has an open window until Tue 02 Jun 00:00 Europe/Oslo (AOS2 with 2 threads)",
        ),
        (
            [aos(2, windows=(VANISHED_OFF, OFF))],
            "BG1: no server has an open window until Tue 02 Jun 00:00 Europe/Oslo (AOS2 with 2 threads)",
        ),
        ([aos(2, windows=(VANISHED,))], "BG1: AOS2 has no window that opens"),
        ([aos(2, windows=(NEVER,))], "BG1: AOS2 has no window that opens"),
        ([aos(2, windows=(NEVER,)), aos(3, windows=(NEVER,))], "BG1: AOS2 and AOS3 have no window that opens"),
        ([aos(2, threads=0)], "BG1: AOS2 has no threads"),
        ([aos(2, threads=0), aos(3, windows=(NEVER,))], "BG1: AOS2 and AOS3 have no threads"),
        (
            [aos(2, threads=0), aos(3, windows=(NIGHT,))],
            f"BG1: no server has an open window until {SIX} (AOS3, {NIGHTLY})",
        ),
        ([aos(2, pool=0)], "BG1: AOS2 is stopping"),
        ([aos(2, pool=0, windows=(DAY,)), aos(3, pool=0)], "BG1: AOS2 and AOS3 are stopping"),
        (
            [aos(2, pool=0, windows=(DAY,)), aos(3, windows=(NIGHT,))],
            f"BG1: no server has an open window until {SIX} (AOS3, {NIGHTLY})",
        ),
        ([aos(2)], "AOS2 2/2 threads busy"),
        ([aos(2), aos(3, threads=1)], "AOS2 2/2, AOS3 1/1 threads busy"),
        ([aos(2), aos(3, enabled=False)], "AOS2 2/2 threads busy"),
        ([aos(n, threads=1) for n in range(1, 6)], "AOS1 2/1, AOS2 2/1, AOS3 1/1, AOS4 1/1, … threads busy"),
        ([aos(4)], "is being handed out"),
        ([aos(2), aos(4)], "is being handed out"),
    ],
)  # fmt: skip
def test_a_ready_task_says_why_it_does_not_start_as_rule_40_says(servers, sentence):
    busy = {1: 2, 2: 2, 3: 1, 4: 1, 5: 1}
    assert why_ready("BG1", Topology(tuple(servers)), busy, NOON) == sentence


def test_the_instant_named_is_that_of_a_window_with_threads():
    """Two windows of different zones open at the same instant, one of them without threads."""
    idle = Window(time(16), time(17), 0, "UTC")
    seen = Topology((aos(2, windows=(idle, NIGHT)),))
    until = "BG1: no server has an open window until"
    assert why_ready("BG1", seen, {}, NOON) == f"{until} {SIX} (AOS2, {NIGHTLY})"


@pytest.mark.parametrize(
    ("timezone", "until"),
    [
        (None, f"{SIX} (AOS2, {NIGHTLY})"),
        ("Europe/Oslo", f"{SIX} (AOS2, {NIGHTLY})"),
        ("UTC", "16:00 UTC (AOS2, 18:00-07:30 Europe/Oslo with 20 threads)"),
        ("Asia/Tokyo", "Tue 02 Jun 01:00 Asia/Tokyo (AOS2, 18:00-07:30 Europe/Oslo with 20 threads)"),
    ],
)
def test_the_instant_is_told_in_the_zone_of_the_user_and_the_window_in_its_own(timezone, until):
    seen = Topology((aos(2, windows=(NIGHT,)),))
    assert why_ready("BG1", seen, {}, NOON, timezone) == f"BG1: no server has an open window until {until}"


def test_the_end_of_a_day_off_is_told_in_the_zone_of_the_user():
    seen = Topology((aos(2, windows=(OFF,)),))
    assert why_ready("BG1", seen, {}, NOON, "UTC") == (
        "BG1: no server has an open window until 22:00 UTC (AOS2 with 2 threads)"
    )


@pytest.mark.parametrize(
    ("instant", "shown"),
    [
        (datetime(2026, 6, 1, 21, 59, 59, 999999, UTC), "23:59:59 Europe/Oslo"),
        (datetime(2026, 6, 1, 22, tzinfo=UTC), "Tue 02 Jun 00:00 Europe/Oslo"),
        (datetime(2026, 5, 31, 21, 59, tzinfo=UTC), "Sun 31 May 23:59 Europe/Oslo"),
    ],
)
def test_an_instant_is_told_with_its_day_if_that_is_not_todays(instant, shown):
    assert local(instant, "Europe/Oslo", NOON) == shown


# --- paused groups (rule 29) --------------------------------------------------------------------------------


def paused(seen: Topology, *groups: str) -> Topology:
    return replace(seen, paused=frozenset(groups))


def test_a_paused_group_gets_nothing_and_the_others_get_its_threads():
    seen = paused(topology(AOS1="", AOS2="BG1 BG2"), "BG1")
    free = {1: 1, 2: 2}
    assert [room(group, seen, free) for group in ("default", "BG1", "BG2")] == [1, 0, 2]
    ready = [(1, "BG1"), (2, "BG2"), (3, "BG1"), (4, "default"), (5, "BG2")]
    assert admit(ready, {"BG1": 2}, seen, free).chosen == [2, 4, 5]
    assert Matching(seen, free, {"BG1": 3, "BG2": 1}).open == 2


def test_the_tickets_of_a_group_that_is_paused_go_back():
    seen = topology(AOS1="", AOS2="BG1")
    out = [(1, "BG1"), (2, "default"), (3, "BG1")]
    assert surplus(lanes_of(out), seen, {1: 1, 2: 2}, Units(seen, {})) == []
    assert surplus(lanes_of(out), paused(seen, "BG1"), {1: 1, 2: 2}, Units(seen, {})) == [1, 3]


def test_pausing_a_group_changes_neither_its_bindings_nor_who_serves_it():
    seen = topology(AOS1="", AOS2="BG1", AOS3="BG1 default")
    still = paused(seen, "BG1", "default")
    assert still.bound == seen.bound
    for group in GROUPS:
        assert serving(still, group) == serving(seen, group)
    assert [still.takes(server, "BG1") for server in still.servers] == [False, False, False]
    assert still.takes(still.by_id[1], "BG2")
    assert free_threads(still, {}, NOON) == free_threads(seen, {}, NOON)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 4), RANDOM)
def test_with_paused_groups_the_rest_gets_what_it_would_get_were_they_not_there(servers, rng):
    seen = random_topology(rng, servers)
    still = paused(seen, *rng.sample(GROUPS, rng.randint(1, 3)))
    free = {server.id: rng.randint(0, 2) for server in seen.servers}
    out, ready = Counter(random_tickets(rng, 4)), list(enumerate(random_tickets(rng, 8)))
    others = [(number, group) for number, group in ready if group not in still.paused]
    out_of_others = {group: number for group, number in out.items() if group not in still.paused}
    assert admit(ready, out, still, free).chosen == admit(others, out_of_others, seen, free).chosen


def test_a_task_of_a_paused_group_says_so_before_all_else():
    for servers in ([], [aos(2)], [aos(2, enabled=False)], [aos(2, windows=(NIGHT,))]):
        seen = paused(Topology(tuple(servers)), "BG1")
        assert why_ready("BG1", seen, {2: 2}, NOON) == "BG1 is paused"
    assert why_ready("BG1", paused(Topology((aos(2),)), "BG2"), {}, NOON) == "is being handed out"


@pytest.mark.parametrize(
    ("numbers", "listed"),
    [
        ([1], "AOS1"),
        ([1, 2], "AOS1 and AOS2"),
        ([1, 2, 3], "AOS1, AOS2 and AOS3"),
        ([1, 2, 3, 4, 5], "AOS1, AOS2 and 3 more"),
    ],
)
def test_servers_are_listed_by_name_at_most_three(numbers, listed):
    assert names([aos(number) for number in numbers]) == listed
