"""Tickets of groups without limits, for tests of the matching alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

from batchq.core.admission import Admitted, Matching, choose
from batchq.core.limits import Lane, Units
from batchq.core.topology import Topology

Key = TypeVar("Key")


def lanes_of(tickets: Iterable[tuple[Key, str]]) -> list[tuple[Key, Lane]]:
    """The tickets, each in a lane of its group without limits."""
    return [(key, Lane(0, group)) for key, group in tickets]


def admit(
    candidates: Iterable[tuple[Key, str]], out: Mapping[str, int], topology: Topology, free: Mapping[int, int]
) -> Admitted[Key]:
    """The candidates (key, group), best first, that get a ticket beside those `out`, which are counted by group."""
    offered = [(key, lane, False) for key, lane in lanes_of(candidates)]
    return choose(offered, Matching(topology, free, out), Units(topology, {}))
