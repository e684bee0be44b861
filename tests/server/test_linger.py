"""A commit waits for attempts that started together with one that has ended, and for no others."""

from __future__ import annotations

from collections.abc import Callable

from batchq.server.linger import FRESH_SECONDS, LINGER_SECONDS, Linger


class Moments:
    """A clock that stands still, and the timers that were set by it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[tuple[float, Callable[[], object]]] = []
        self.flushed: list[float] = []
        self.linger = Linger(self.call_later, lambda: self.flushed.append(self.now), lambda: self.now)

    def call_later(self, delay: float, callback: Callable[[], object]) -> None:
        self.timers.append((self.now + delay, callback))

    def at(self, now: float) -> Linger:
        """Go on to this instant, and run the timers that are due."""
        self.now = now
        due = [callback for at, callback in self.timers if at <= now]
        self.timers = [each for each in self.timers if each[0] > now]
        for callback in due:
            callback()
        return self.linger


def begun() -> Moments:
    """Two attempts have started, and one has ended."""
    moments = Moments()
    moments.linger.started(["A", "B"])
    moments.linger.ended("A")
    return moments


def test_it_waits_until_all_that_started_together_have_ended():
    moments = begun()
    assert moments.linger.lasts()
    moments.linger.ended("B")
    assert not moments.linger.lasts()


def test_it_waits_a_millisecond_at_most():
    moments = begun()
    assert moments.linger.lasts()
    assert moments.at(LINGER_SECONDS * 0.9).lasts()
    assert not moments.at(LINGER_SECONDS * 1.1).lasts()
    assert moments.flushed == [moments.now]


def test_it_waits_for_none_that_started_long_ago():
    moments = begun()
    assert not moments.at(FRESH_SECONDS * 1.1).lasts()


def test_the_timer_of_an_earlier_wait_cuts_no_later_one_short():
    moments = begun()
    assert moments.linger.lasts()
    moments.linger.ended("B")
    later = moments.at(LINGER_SECONDS * 0.8)
    later.started(["C", "D"])
    later.ended("C")
    assert later.lasts()
    assert moments.at(LINGER_SECONDS * 1.1).lasts()
    assert not moments.at(LINGER_SECONDS * 1.9).lasts()
    assert moments.flushed == [moments.now]
