"""The quick way between the loop and the pool's children: a message takes no turn of the loop that it does not need.

celery.concurrency.asynpool puts an order into a buffer, watches at the loop's next turn which pipes can be written to,
and writes at the turn after. It reads one message a turn, though a short attempt sends two at once. And it goes through
all pipes at every turn. This module spares those turns, and leaves every decision to asynpool: which child may get an
order, how half a message goes on, and which attempts died with their child.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import select
from collections.abc import Callable, Generator, Iterator
from functools import partial
from inspect import isgenerator
from itertools import islice
from struct import unpack

from billiard.pool import READY

from batchq.server.celery_types.loop import Hub
from batchq.server.celery_types.pool import Child, Message, PoolJob, Processes, Results

logger = logging.getLogger(__name__)

HEADER_BYTES = 4
# A pipe takes a message of up to this size whole, or takes nothing of it.
WHOLE_BYTES = select.PIPE_BUF
# As much as a pipe holds on Linux.
PIECE_BYTES = 64 * 1024


def hasten(hub: Hub, inner: Processes) -> None:
    """Read and watch in the quick way; to be called before the pool is put into the loop."""
    inner._result_handler._recv_message = partial(_received, inner._result_handler)
    inner.process_flush_queues = partial(_heard_out, hub, inner.process_flush_queues)
    inner._registered_with_event_loop = True  # so that asynpool does not add its own look, at every turn
    hub.on_tick.add(partial(_look, hub, inner))


def write(hub: Hub, inner: Processes) -> None:
    """Write waiting orders to idle children now. An order that none can take waits for the loop."""
    if not inner.outbound_buffer or hub.consolidate_callback is None:
        return
    idle = inner._all_inqueues - inner._busy_workers - inner._active_writes
    if idle:
        # No more children than orders: given one child more, asynpool goes through all pipes.
        chosen = list(islice(idle, len(inner.outbound_buffer)))
        for job in islice(inner.outbound_buffer, len(chosen)):
            _join(job)
        try:
            hub.consolidate_callback(chosen)
        except Exception:
            # The caller has given its order to the pool, and must not take it for refused.
            logger.exception("writing to a child")


def _join(job: PoolJob) -> None:
    """Let a short order go out in one piece: its header alone would wake the child, which would wait for the rest.

    asynpool takes the number of bytes written for those of the header, so no part of the order may stay unwritten.
    """
    header, body, size = job._payload
    if size and HEADER_BYTES + size <= WHOLE_BYTES:
        job._payload = memoryview(bytes(header) + bytes(body)), body[:0], 0


def _look(hub: Hub, inner: Processes) -> None:
    """Let asynpool watch its pipes if an order waits, and leave them if none does any more."""
    if inner.outbound_buffer or hub.consolidate:
        inner.on_poll_start()


# --- reading ------------------------------------------------------------------------------------------------


def _received(
    handler: Results, add_reader: Callable[..., object], fd: int, callback: Callable[[Message], object]
) -> Iterator[None]:
    """Read all messages of a child that have come; a generator, which stops where a message goes on later.

    The loop then calls the generator itself, in the place of `handle_event`.
    """
    waited = False
    for body in _bodies(fd):
        if body is None:
            waited = True
            yield
            continue
        if waited:
            add_reader(fd, handler.handle_event, fd)
        message = pickle.loads(body)  # noqa: S301 (from our own child)
        if message:
            callback(message)
        # A child that has reported says nothing more until it gets an order. After a wait it ends here as well: the
        # loop would not take this generator back for a second wait.
        if waited or (message and message[0] == READY):
            return


def _bodies(fd: int) -> Generator[bytes | bytearray | None]:
    """Yield the body of each message in the pipe, and None each time that the pipe is empty within one."""
    while True:
        try:
            header = os.read(fd, HEADER_BYTES)
        except BlockingIOError:
            return
        if not header:
            raise EOFError
        if len(header) < HEADER_BYTES:
            header = bytes((yield from _rest(fd, header, HEADER_BYTES)))
        (size,) = unpack(">i", header)
        yield (yield from _rest(fd, b"", size))


def _rest(fd: int, begun: bytes, size: int) -> Generator[None, None, bytearray]:
    """Read the rest of a part of this size."""
    found = bytearray(begun)
    while len(found) < size:
        try:
            piece = os.read(fd, min(size - len(found), PIECE_BYTES))
        except BlockingIOError:
            yield
            continue
        if not piece:
            raise OSError("End of file during message")
        found += piece
    return found


def _heard_out(hub: Hub, flush: Callable[[Child], object], child: Child) -> None:
    """Finish a message of a child that has died, before asynpool reads its last words.

    asynpool would take the rest of a half-read message for the beginning of another one.
    """
    watched = hub.readers.get(child.outqR_fd)
    if watched and isgenerator(watched[0]):
        with contextlib.suppress(StopIteration, OSError, EOFError):
            next(watched[0])
    flush(child)
