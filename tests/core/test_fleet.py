"""Many servers: what a topology and a matching remember to be quick is what they would find out anew."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchq.core.admission import Matching, free_threads, room
from batchq.core.override import Override
from batchq.core.topology import DEFAULT_GROUP, Server, Topology
from batchq.core.windows import Window
from support.plain import admit

GROUPS = (DEFAULT_GROUP, "BG1", "BG2", "BG3")
RANDOM = st.randoms(use_true_random=True)
NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)  # a Monday
MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)
# Near a jump of some clock, and far from any.
DAYS = (datetime(2026, 3, 29, tzinfo=UTC), datetime(2026, 10, 25, tzinfo=UTC), datetime(2026, 6, 1, tzinfo=UTC))
ZONES = ("UTC", "Europe/Oslo", "America/New_York", "Asia/Tokyo")


def random_topology(rng: random.Random, servers: int, begin: datetime | None = None) -> Topology:
    """Servers in the order of their names, not of their ids; with a `begin` some have windows."""
    numbers = list(range(1, servers + 1))
    rng.shuffle(numbers)
    found = tuple(
        Server(
            id=number,
            name=f"S{place}",
            threads=rng.randint(0, 3),
            groups=frozenset(group for group in GROUPS if rng.random() < rng.choice([0, 0.4])),
            windows=random_windows(rng, begin) if begin else (),
            override=random_override(rng, begin) if begin else None,
            enabled=rng.random() < 0.9,
            alive=rng.random() < 0.9,
            pool=rng.choice([None, None, 1, 5]),
        )
        for place, number in enumerate(numbers)
    )
    return Topology(found, paused=frozenset(rng.sample(GROUPS, rng.choice([0, 0, 1]))))


def random_windows(rng: random.Random, begin: datetime) -> tuple[Window, ...]:
    return tuple(random_window(rng, begin.date()) for _ in range(rng.choice([0, 1, 2, 3])))


def random_override(rng: random.Random, begin: datetime) -> Override | None:
    return Override(rng.randint(0, 4), begin + rng.randint(-48, 48) * 30 * MINUTE) if rng.random() < 0.3 else None


def random_window(rng: random.Random, day: date) -> Window:
    start, end = (time(rng.randrange(24), rng.choice([0, 30]), rng.choice([0, 0, 1])) for _ in range(2))
    only = day + rng.randint(-1, 1) * DAY if rng.random() < 0.4 else None
    days = frozenset(rng.sample(range(7), 4)) if only is None and rng.random() < 0.3 else None
    return Window(start, end, rng.randint(0, 4), rng.choice(ZONES), days, only, vanished=rng.random() < 0.05)


# --- who takes what -----------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 8), RANDOM)
def test_the_servers_that_take_a_group_are_those_that_say_so_in_their_order(servers, rng):
    seen = random_topology(rng, servers)
    for group in (*GROUPS, "named nowhere"):
        assert list(seen.taking(group)) == [server.id for server in seen.servers if seen.takes(server, group)]


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 8), RANDOM)
def test_the_room_of_a_group_is_the_sum_over_the_servers_that_take_it(servers, rng):
    seen = random_topology(rng, servers)
    free = {server.id: rng.randint(0, 3) for server in rng.sample(seen.servers, rng.randint(0, servers))}
    for group in GROUPS:
        taking = [server.id for server in seen.servers if seen.takes(server, group)]
        assert room(group, seen, free) == sum(free.get(server, 0) for server in taking)


# --- who is open --------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 6), st.sampled_from(DAYS), RANDOM)
def test_at_any_instant_and_in_any_order_the_topology_has_each_servers_threads(servers, begin, rng):
    seen = random_topology(rng, servers, begin)
    for instant in walk(rng, begin):
        found = {server.id: threads for server in seen.servers if (threads := server.threads_now(instant))}
        assert list(seen.threads_now(instant).items()) == list(found.items())


def walk(rng: random.Random, begin: datetime) -> Iterator[datetime]:
    """Instants, many of them full minutes, that mostly go on and sometimes back: a clock may be set."""
    instant = begin - DAY
    while instant < begin + DAY:
        yield instant
        instant += rng.choice([MINUTE, 30 * MINUTE, 30 * MINUTE, 171 * MINUTE, timedelta(seconds=1)])
        if rng.random() < 0.1:
            yield instant - rng.randint(0, 2000) * MINUTE + timedelta(microseconds=rng.randint(0, 1))


def test_windows_are_judged_anew_only_when_one_of_them_may_open_or_close():
    day, night = Window(time(8), time(18), 2, "UTC"), Window(time(20), time(6), 9, "UTC")
    seen = Topology((Server(1, "A", windows=(day,)), Server(2, "B", windows=(night,)), Server(3, "C", 4)))
    at_noon = seen.threads_now(NOON)
    assert at_noon == {1: 2, 3: 4}
    last = NOON.replace(hour=17, minute=59, second=59, microsecond=999999)
    assert seen.threads_now(last) is at_noon
    assert seen.threads_now(NOON.replace(hour=18)) == {3: 4}
    assert seen.threads_now(NOON.replace(hour=20)) == {2: 9, 3: 4}
    assert seen.threads_now(NOON) == at_noon


def test_servers_without_windows_are_judged_once():
    seen = Topology((Server(1, "A", 3), Server(2, "B", 2, alive=False)))
    assert seen.threads_now(NOON) is seen.threads_now(NOON + 400 * DAY) is seen.threads_now(NOON - DAY)
    assert seen.threads_now(NOON) == {1: 3}
    assert replace(seen, servers=(Server(1, "A", 5),)).threads_now(NOON) == {1: 5}


@pytest.mark.parametrize("windows", [(), (Window(time(8), time(18), 4, "UTC"),)])
def test_only_servers_that_could_take_a_ticket_are_free(windows):
    seen = Topology(tuple(Server(number, f"S{number}", 4, windows=windows) for number in range(1, 501)))
    busy = dict.fromkeys(range(1, 501), 4)
    assert free_threads(seen, busy, NOON) == {}
    assert free_threads(seen, {**busy, 7: 3, 9: 9}, NOON) == {7: 1}
    assert free_threads(seen, {**busy, 7: 3, 9: 9}, NOON, ahead=1) == {
        **dict.fromkeys([*range(1, 9), *range(10, 501)], 1),
        7: 2,
    }


# --- the matching -------------------------------------------------------------------------------------------


class PlainMatching:
    """One search for each ticket, over all servers, for the nearest free thread: by hand, and slow."""

    def __init__(self, seen: Topology, free: Mapping[int, int]) -> None:
        self.seen = seen
        self.free = {server.id: free.get(server.id, 0) for server in seen.servers}
        self.open = [server for server in seen.servers if self.free[server.id]]
        self.placed: dict[int, Counter[str]] = {server.id: Counter() for server in self.open}

    def place(self, group: str) -> bool:
        paths = [[(server.id, group)] for server in self.open if self.seen.takes(server, group)]
        reached = {path[0][0] for path in paths}
        for path in paths:  # it grows meanwhile
            last = path[-1][0]
            if self.free[last]:
                self.move(path)
                return True
            for other in [other for other, number in self.placed[last].items() if number]:
                for server in self.open:
                    if server.id not in reached and self.seen.takes(server, other):
                        reached.add(server.id)
                        paths.append([*path, (server.id, other)])
        return False

    def move(self, path: list[tuple[int, str]]) -> None:
        self.free[path[-1][0]] -= 1
        for place, (server, group) in enumerate(path):
            self.placed[server][group] += 1
            if place:
                self.placed[path[place - 1][0]][group] -= 1


@settings(max_examples=500, deadline=None)
@given(st.integers(0, 9), RANDOM)
def test_each_ticket_gets_the_thread_that_a_search_over_all_servers_would_give_it(servers, rng):
    seen = random_topology(rng, servers)
    free = {server.id: rng.randint(0, 3) for server in rng.sample(seen.servers, rng.randint(0, servers))}
    matching, plain = Matching(seen, free), PlainMatching(seen, free)
    for group in rng.choices(GROUPS, k=rng.randint(0, 20)):
        number = rng.randint(1, 4)
        assert matching.place_all(group, number) == sum([plain.place(group) for _ in range(number)])
        assert list(matching.placed) == list(plain.placed)
        assert [+Counter(share) for share in matching.placed.values()] == [+each for each in plain.placed.values()]


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 9), RANDOM)
def test_the_admitted_and_their_shares_are_those_of_a_search_over_all_servers(servers, rng):
    seen = random_topology(rng, servers)
    free = {server.id: rng.randint(0, 3) for server in seen.servers}
    out = Counter(rng.choices(GROUPS, k=rng.randint(0, 6)))
    candidates = list(enumerate(rng.choices(GROUPS, k=rng.randint(0, 15))))
    plain = PlainMatching(seen, free)
    for group in out.elements():
        plain.place(group)
    chosen = [number for number, group in candidates if plain.place(group)]
    admitted = admit(candidates, out, seen, free)
    assert admitted.chosen == chosen
    assert {server: +Counter(share) for server, share in admitted.shares.items()} == {
        server: +share for server, share in plain.placed.items()
    }
