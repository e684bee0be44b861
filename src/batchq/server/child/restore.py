"""A pool process is put back in order after each operation, so that the next one finds it as the first one did.

On the prefork pool a process runs one operation at a time. It is looked over once before the first operation, and after
each. The parts that the report needs are put back before it; the rest is put back between the report and the next
order, while the server does its own part. A process that cannot be put back runs nothing more.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from os import _exit as end_process
from os import getpid
from resource import RUSAGE_SELF, getrusage
from threading import active_count

from billiard.common import terminate_handler_fired
from billiard.process import current_process

from batchq.server.child import habits, loggers
from batchq.server.child.habit import AnyHabit, copied
from batchq.server.child.interpreter import environment
from batchq.server.child.kernel import file
from batchq.server.child.names import Names
from batchq.server.child.order import Current

logger = logging.getLogger(__name__)

LOST = 70  # the exit code of a process that can no longer report

_Anything = BaseException
_house: House | None = None
# Whether `attend` has seen to this process.
_attended = False


def house() -> House:
    """Return this process as it was before its first operation."""
    global _house
    if _house is None or _house.process != getpid():
        _house = House()
    return _house


def attend(**_: object) -> None:
    """Have this new process of the pool looked over after each report, before it takes the next order."""
    global _attended
    worker = getattr(current_process(), "_target", None)
    receive = getattr(worker, "wait_for_job", None)
    if worker is None or receive is None:
        return
    _attended = True

    def wait_for_job() -> object:
        if _house is not None and _house.after is not None:
            _house.put_rest_back()
        return receive()

    worker.wait_for_job = wait_for_job


class House:
    """A process as it was before its first operation; `spent` once it cannot be made so again."""

    def __init__(self) -> None:
        with contextlib.suppress(OSError):
            # A group of its own: `kill 0` in an operation would reach the server and its other children.
            os.setpgid(0, 0)
        self.spent = False
        # The attempt that was reported last, until the look that follows its report.
        self.after: Current | None = None
        self.attempts = 0
        self.process = getpid()
        self._threads = active_count()
        self._changed: list[str] = []
        self._pipes = [(number, file(number)) for number in _pool_pipes()]
        self._names = Names(self._changed, [environment()])
        self._habits = [(habit, before) for habit in habits.HABITS if (before := _seen(habit)) is not None]
        # Both stay None if the first glance fails; every look then goes through the whole table.
        self._glanced: object = None
        self._first: object = None
        with contextlib.suppress(Exception):
            self._glanced, self._first = copied(self._glance()), copied(habits.first())

    def is_worn_by(self, attempts: int | None, kilobytes: int | None) -> bool:
        """Count an attempt; whether this process has run all its `attempts`, or used more memory than `kilobytes`."""
        self.attempts += 1
        if attempts and self.attempts >= attempts:
            return True
        if not kilobytes or (used := getrusage(RUSAGE_SELF).ru_maxrss) <= kilobytes:
            return False
        logger.warning("this process has held %d KiB, and worker_max_memory_per_child is %d: it ends", used, kilobytes)
        return True

    def put_names_back(self) -> None:
        """Give modules and builtins back what the operation replaced in them; this needs none of them itself."""
        self._names.put_back()
        if active_count() > self._threads and loggers.unlock():
            self._changed.append("locks of logging")
            self.spent = True
            self._names.note_logging()

    def _glance(self) -> object:
        return habits.glance() if self._names.have_versions else (habits.glance(), habits.in_names())

    def put_back(self, work: Current) -> None:
        """Put back the parts that the report needs, and all others unless they can wait until it is sent.

        The log names `work`, the attempt. A process that cannot report ends.
        """
        self._names.put_core_back()
        try:
            well = not self._names.stirred and habits.first() == self._first
        except Exception:
            well = False
        self.after = work
        if not (well and _attended):
            self._look_over(well)
        for number, before in self._pipes:
            if file(number) != before:
                self._end()
        self._say_changes("The operation")

    def put_rest_back(self) -> None:
        """Put back everything else that the attempt left changed, once it has been reported."""
        assert self.after is not None
        who = f"{self.after.job} / {self.after.task} (run {self.after.run}, attempt {self.after.attempt})"
        try:
            self._look_over(well=True)
            self._say_changes(who)
        except Exception:
            logger.exception("the process cannot be put in order after %s, and runs nothing more", who)
            self.spent, self.after = True, None

    def _look_over(self, well: bool) -> None:
        """Compare the process with how it was, and mend it; `well` says that names and first parts are in order."""
        try:
            same = well and self._glance() == self._glanced
        except Exception:
            same = False
        if not same:
            self._mend()
            self._names.settle()
        self.after = None

    def _say_changes(self, who: str) -> None:
        if self._changed:
            changed = ", ".join(self._changed[:20])
            self._changed.clear()
            outcome = "its process runs nothing more" if self.spent else "that was put back"
            logger.warning("%s left changed: %s; %s.", who, changed, outcome)

    def _mend(self) -> None:
        for habit, (before, first) in self._habits:
            try:
                if habit.look() == before:
                    continue
            except Exception:
                logger.debug("%s cannot be looked at", habit.name)
            self._changed.append(habit.name)
            try:
                habit.put_back(first)
                mended = habit.look() == before
            except _Anything:
                if terminate_handler_fired():
                    raise
                mended = False
            self.spent = self.spent or not mended

    def _end(self) -> None:
        with contextlib.suppress(Exception):
            logger.critical("The operation closed the pipes of its process, which cannot report it and ends.")
        end_process(LOST)


def _seen(habit: AnyHabit) -> tuple[object, object] | None:
    """How a part is now: a value to compare, and a value to put back; None where it cannot be seen."""
    try:
        kept = habit.keep()
        return copied(habit.look()), kept
    except Exception:
        return None


def _pool_pipes() -> Iterator[int]:
    """The file descriptors that bring this process its orders, and take their outcomes to the pool."""
    worker = getattr(current_process(), "_target", None)
    for queue, end in (("inq", "_reader"), ("outq", "_writer")):
        connection = getattr(getattr(worker, queue, None), end, None)
        if connection is not None:
            yield connection.fileno()
