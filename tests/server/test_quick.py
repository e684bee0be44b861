"""The quick way between the loop and the pool's children: nothing is lost on it, torn apart or given out twice."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pickle
import signal
import struct
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from billiard.exceptions import WorkerLostError
from billiard.pool import ACK, READY
from celery import Celery
from celery.concurrency.prefork import TaskPool
from kombu.asynchronous import Hub

from batchq.server import celery_gaps, quick, stop
from batchq.server.pool import Children

SECONDS = 20.0
# More than a pipe holds, and more than it holds twice.
LARGE = 400_000
# More than a pipe holds, but its rest fits in.
LONG = 100_000


def written(path: str, text: str, result: object = None) -> object:
    """Add a line with this process' id to the file; the result comes back."""
    with open(path, "a") as file:  # noqa: PTH123 (nothing may be imported here: the child's first order counts too)
        file.write(f"{os.getpid()} {text[:9]}\n")
    return result


def repeated(text: str, times: int) -> str:
    return text * times


def standing(path: str) -> None:
    written(path, "stands")
    os.kill(os.getpid(), signal.SIGSTOP)


class Site:
    """A real prefork pool in a real loop, as a batch server has them."""

    def __init__(self, folder: Path) -> None:
        self.ledger = folder / "ledger"
        self.ledger.touch()
        self.hub = Hub()
        app = Celery("quick", set_as_current=False)
        options = {"initargs": (app, "quick@here"), "threads": False, "forking_enable": True, "putlocks": False}
        self.pool = TaskPool(2, app=app, **options)
        self.pool.start()
        self.children = Children(self.pool, self.hub)
        celery_gaps.keep_in_loop(self.hub, self.pool)
        self.pool.register_with_event_loop(self.hub)
        self.hub.call_repeatedly(0.05, self.children.bury)
        self.ended: list[tuple[str, object]] = []
        self.started: dict[str, int] = {}
        self.turn(lambda: len(self.inner._all_inqueues) == 2)

    @property
    def inner(self) -> Any:
        return self.pool._pool

    def close(self) -> None:
        self.children.end()
        for child in self.inner._pool:
            soon(lambda child=child: not child._is_alive())
        self.pool.terminate()
        self.hub.close()

    def turn(self, done: Callable[[], bool]) -> None:
        """Turn the loop until it is done."""
        stop.turn(self.hub, done, SECONDS)
        assert done()

    def give(self, name: str, act: Callable[..., object], *args: object, ready: Callable[..., object] = bool) -> None:
        """Give the pool an order, as an execution does."""

        def succeeded(result: object, **_: object) -> None:
            self.ended.append((name, result))
            ready(name)

        self.pool.apply_async(
            act,
            args=args,
            accept_callback=lambda pid, _: self.started.__setitem__(name, pid),
            callback=succeeded,
            error_callback=lambda info, **_: self.ended.append((name, type(info.exception.exc))),
        )
        self.children.write()

    @property
    def lines(self) -> list[str]:
        return [line.split()[1] for line in self.ledger.read_text().splitlines()]

    def child(self, name: str) -> Any:
        """The child that has this order."""
        return next(child for child in self.inner._pool if child.pid == self.started[name])

    def unread(self, child: Any) -> int:
        """How many bytes of the child's messages stand in its pipe."""
        return struct.unpack("i", fcntl.ioctl(child.outqR_fd, termios.FIONREAD, b"\0\0\0\0"))[0]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    try:
        yield site
    finally:
        site.close()


def soon(done: Callable[[], bool]) -> None:
    """Wait, while the loop stands still."""
    deadline = time.monotonic() + SECONDS
    while not done():
        assert time.monotonic() < deadline
        os.sched_yield()


def stopped(pid: int) -> None:
    """Stop the process, and wait until it stands."""
    os.kill(pid, signal.SIGSTOP)
    soon(lambda: stands(pid))


def stands(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def dead(child: Any) -> None:
    os.kill(child.pid, signal.SIGKILL)
    soon(lambda: not child._is_alive())


# --- orders -------------------------------------------------------------------------------------------------


def test_an_order_reaches_an_idle_child_without_a_turn_of_the_loop(site: Site):
    site.give("a", written, str(site.ledger), "a")
    site.give("b", written, str(site.ledger), "b")
    soon(lambda: sorted(site.lines) == ["a", "b"])
    site.turn(lambda: len(site.ended) == 2)
    assert len(set(site.started.values())) == 2


@pytest.mark.parametrize("room", [0, 4096, None])
def test_orders_about_as_long_as_a_pipe_takes_whole_are_not_cut(site: Site, room: int | None):
    for child in site.inner._pool:
        stopped(child.pid)
        if room is not None:
            fill(child.inqW_fd)
            os.read(child.inq._reader.fileno(), room)
    sizes = range(4130, 3900, -10)
    for size in sizes:
        site.give(str(size), repeated, "a" * size, 1)
    assert len(site.inner._active_writes) == (0 if room is None else 2)
    for child in site.inner._pool:
        os.kill(child.pid, signal.SIGCONT)
    site.turn(lambda: len(site.ended) == len(sizes))
    assert dict(site.ended) == {str(size): "a" * size for size in sizes}


def fill(fd: int) -> None:
    """Fill the pipe of a child up with messages that it passes over."""
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(fd, packed(()))


def test_an_order_that_no_child_can_take_waits_for_one(site: Site):
    for name in "abcde":
        site.give(name, written, str(site.ledger), name)
    site.turn(lambda: len(site.ended) == 5)
    assert sorted(site.lines) == ["a", "b", "c", "d", "e"]


def test_orders_and_results_larger_than_a_pipe_go_through(site: Site):
    for name in "abcd":
        site.give(name, repeated, name * LARGE, 3)
    site.turn(lambda: len(site.ended) == 4)
    assert sorted(site.ended) == [(name, name * LARGE * 3) for name in "abcd"]


def test_half_an_order_of_a_child_that_was_stopped_and_killed_goes_to_another_child_once(site: Site):
    pids = [child.pid for child in site.inner._pool]
    for pid in pids:
        stopped(pid)
    site.give("a", written, str(site.ledger), "a" * LARGE)
    (half,) = (child for child in site.inner._pool if child.inqW_fd in site.inner._active_writes)
    (other,) = (pid for pid in pids if pid != half.pid)
    os.kill(other, signal.SIGCONT)
    site.give("b", written, str(site.ledger), "b")
    site.turn(lambda: site.ended == [("b", None)])  # the half order held nobody up
    os.kill(half.pid, signal.SIGKILL)
    site.turn(lambda: len(site.ended) == 2)
    assert site.lines == ["b", "a" * 9]
    still_works(site)


def test_an_order_in_the_pipe_of_a_killed_child_goes_to_another_child_once(site: Site):
    pids = [child.pid for child in site.inner._pool]
    for pid in pids:
        stopped(pid)
    site.give("a", written, str(site.ledger), "a")
    site.give("b", written, str(site.ledger), "b")
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    site.turn(lambda: len(site.ended) == 2)
    assert sorted(site.lines) == ["a", "b"]
    still_works(site)


def test_an_order_given_while_its_child_is_dead_already_is_run_once(site: Site):
    for child in site.inner._pool:
        dead(child)
    site.give("a", written, str(site.ledger), "a")
    site.give("b", written, str(site.ledger), "b" * LARGE)
    site.turn(lambda: len(site.ended) == 2)
    assert sorted(site.lines) == ["a", "b" * 9]
    still_works(site)


def test_an_attempt_that_began_and_whose_child_is_killed_is_lost_once(site: Site):
    site.give("a", standing, str(site.ledger))
    soon(lambda: site.lines == ["stands"])
    (pid,) = (child.pid for child in site.inner._pool if child.inqW_fd in site.inner._busy_workers)
    soon(lambda: stands(pid))
    os.kill(pid, signal.SIGKILL)
    site.turn(lambda: bool(site.ended))
    still_works(site)
    assert site.ended[0] == ("a", WorkerLostError)
    assert site.lines.count("stands") == 1


def test_an_order_is_not_refused_because_a_pipe_fails(site: Site, caplog: pytest.LogCaptureFixture):
    write = site.hub.consolidate_callback

    def fails(_: list[int]) -> None:
        raise OSError("no more of this")

    site.hub.consolidate_callback = fails
    site.give("a", written, str(site.ledger), "a")
    site.hub.consolidate_callback = write
    assert "writing to a child" in caplog.text
    site.turn(lambda: site.ended == [("a", None)])


def still_works(site: Site) -> None:
    """Two children there are, and each runs what it gets."""
    before = len(site.ended)
    site.turn(lambda: len(site.inner._all_inqueues) == 2)
    for name in "xyz":
        site.give(name, repeated, name, LARGE)
    site.turn(lambda: len(site.ended) == before + 3)
    assert sorted(site.ended[before:]) == [(name, name * LARGE) for name in "xyz"]
    assert not site.inner._cache
    assert not site.inner._active_writes


# --- spoiled children, a pool that shrinks ------------------------------------------------------------------


def test_a_child_that_is_let_go_at_its_report_gets_nothing_more(site: Site):
    def again(name: str) -> None:
        site.children.replace(site.started[name])
        if len(name) < 4:
            site.give(name + name[0], written, str(site.ledger), name, ready=again)

    site.give("a", written, str(site.ledger), "a", ready=again)
    site.turn(lambda: len(site.ended) == 4)
    assert len(set(site.started.values())) == 4


def test_a_child_that_is_let_go_gets_no_order_that_waits(site: Site):
    site.turn(lambda: site.children.fit(1))
    for name in "abc":
        site.give(name, written, str(site.ledger), name)
    site.turn(lambda: len(site.ended) == 3)
    assert len(set(site.started.values())) == 1


# --- results ------------------------------------------------------------------------------------------------


def test_a_result_whose_child_is_killed_half_way_is_lost_once(site: Site):
    site.give("a", repeated, "a" * 1000, 1000)
    (child,) = (child for child in site.inner._pool if child.inqW_fd in site.inner._busy_workers)
    soon(lambda: site.unread(child) >= 60_000)
    stopped(child.pid)
    site.turn(lambda: site.unread(child) == 0)
    assert not site.ended
    dead(child)
    site.children.bury()
    assert site.ended == [("a", WorkerLostError)]
    still_works(site)


def test_a_half_read_result_is_read_to_its_end_when_its_child_is_dead(site: Site):
    site.give("a", repeated, "a", LONG)
    (child,) = (child for child in site.inner._pool if child.inqW_fd in site.inner._busy_workers)
    soon(lambda: site.unread(child) >= 60_000)
    stopped(child.pid)
    site.turn(lambda: site.unread(child) == 0)
    os.kill(child.pid, signal.SIGCONT)
    soon(lambda: site.unread(child) >= 30_000)
    dead(child)
    site.children.bury()
    assert site.ended == [("a", "a" * LONG)]
    still_works(site)


def test_a_lost_connection_tears_no_message_apart(site: Site):
    for name in "ab":
        site.give(name, repeated, name * LARGE, 2)
    site.hub.reset()
    site.turn(lambda: len(site.started) == 2)
    site.hub.reset()
    site.turn(lambda: len(site.ended) == 2)
    still_works(site)
    assert sorted(site.ended[:2]) == [(name, name * LARGE * 2) for name in "ab"]


# --- the reader alone ---------------------------------------------------------------------------------------


class Pipe:
    """A child's pipe as the loop reads it."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()
        os.set_blocking(self.reading, False)
        self.happened: list[object] = []
        handler: Any = SimpleNamespace(handle_event="anew")
        self.read = lambda: quick._received(handler, self._watch, self.reading, self._hear)

    def _watch(self, fd: int, callback: object, *_: object) -> None:
        assert fd == self.reading
        self.happened.append(callback)

    def _hear(self, message: tuple[int, Any]) -> None:
        self.happened.append(message)

    def send(self, *messages: object) -> None:
        self.send_bytes(b"".join(map(packed, messages)))

    def send_bytes(self, data: bytes) -> None:
        assert os.write(self.writing, data) == len(data)

    def close(self) -> None:
        for fd in (self.reading, self.writing):
            os.close(fd)


def packed(message: object) -> bytes:
    body = pickle.dumps(message)
    return struct.pack("!i", len(body)) + body


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.close()


def test_all_that_a_child_has_sent_is_read_at_one_wake_up(pipe: Pipe):
    pipe.send((ACK, (1,)), (READY, (1,)))
    assert list(pipe.read()) == []
    assert pipe.happened == [(ACK, (1,)), (READY, (1,))]


def test_nothing_is_read_ahead_of_a_report(pipe: Pipe):
    pipe.send((READY, (1,)), (READY, (2,)))
    assert list(pipe.read()) == []
    assert pipe.happened == [(READY, (1,))]
    assert list(pipe.read()) == []
    assert pipe.happened == [(READY, (1,)), (READY, (2,))]


def test_a_wake_up_for_nothing_does_nothing(pipe: Pipe):
    assert list(pipe.read()) == []
    assert pipe.happened == []


def test_a_message_may_come_in_any_pieces(pipe: Pipe):
    message = packed((ACK, ("first",)))
    reading = pipe.read()
    for byte in message[:-1]:
        pipe.send_bytes(bytes([byte]))
        next(reading)
    pipe.send_bytes(message[-1:])
    assert list(reading) == []
    # The pipe is watched anew before anybody hears of the message, as that may fail.
    assert pipe.happened == ["anew", (ACK, ("first",))]


def test_after_a_wait_the_next_message_is_left_to_the_next_wake_up(pipe: Pipe):
    first, second = packed((ACK, (1,))), packed((READY, (1,)))
    reading = pipe.read()
    pipe.send_bytes(first[:7])
    next(reading)
    pipe.send_bytes(first[7:] + second[:7])
    assert list(reading) == []
    assert pipe.happened == ["anew", (ACK, (1,))]
    reading = pipe.read()
    next(reading)
    pipe.send_bytes(second[7:])
    assert list(reading) == []
    assert pipe.happened[2:] == ["anew", (READY, (1,))]


@pytest.mark.parametrize(("sent", "error"), [(0, EOFError), (2, OSError), (9, OSError)])
def test_the_end_of_a_pipe_is_an_error(pipe: Pipe, sent: int, error: type[Exception]):
    pipe.send_bytes(packed((ACK, (1,)))[:sent])
    os.close(pipe.writing)
    pipe.writing = os.dup(pipe.reading)
    with pytest.raises(error):
        list(pipe.read())


# --- the look at every turn ---------------------------------------------------------------------------------


def test_the_pipes_are_looked_at_only_while_an_order_waits_for_one(site: Site):
    looks: list[int] = []
    look = site.inner.on_poll_start
    site.inner.on_poll_start = lambda: (looks.append(1), look())
    site.give("a", written, str(site.ledger), "a")
    site.turn(lambda: site.ended == [("a", None)])
    assert looks == []
    for name in "bcd":
        site.give(name, written, str(site.ledger), name)
    site.turn(lambda: len(site.ended) == 4)
    assert looks
    site.turn(lambda: not site.hub.consolidate)
    looks.clear()
    site.give("e", written, str(site.ledger), "e")
    site.turn(lambda: len(site.ended) == 5)
    assert looks == []
