"""The whole state of a process that outlives an operation: part by part, and at a glance."""

from __future__ import annotations

import gc
import locale
import os
import signal
import socket
import sys
import warnings
from _locale import setlocale
from _signal import getsignal, pthread_sigmask
from resource import getrlimit

from batchq.server.child import interpreter, kernel, loggers
from batchq.server.child.habit import AnyHabit
from batchq.server.child.interpreter import arithmetic_of, contexts, environment, is_closed, streams, system, time_zone
from batchq.server.child.kernel import (
    PR_GET_PDEATHSIG,
    RLIMITS,
    SIGNALS,
    TIMERS,
    death_signal_at,
    death_signal_number,
    prctl,
    root_folder,
)
from batchq.server.child.loggers import levels, outlets

# In this order: the kernel's parts, once put back, make the rest possible.
HABITS: tuple[AnyHabit, ...] = (*kernel.HABITS, *interpreter.HABITS, *loggers.HABITS)


def glance() -> object:
    """Every part but those of `first` and `in_names`, as one value that is only compared.

    It is taken after each operation, in a process with cold caches: one flat function of builtins takes half as long
    there as a walk through HABITS. Raises OSError where a part cannot be seen.
    """
    umask = os.umask(0o077)
    os.umask(umask)
    if prctl is not None:
        prctl(PR_GET_PDEATHSIG, death_signal_at)
    return (
        [*map(getsignal, SIGNALS)], pthread_sigmask(signal.SIG_BLOCK, ()), signal.set_wakeup_fd(-1),
        os.getresuid(), os.getresgid(), os.getcwd(), root_folder(), umask,  # noqa: PTH109
        os.fstat(0)[1:3], os.fstat(1)[1:3], os.fstat(2)[1:3], os.getpgid(0),
        os.getsid(0), os.getpriority(os.PRIO_PROCESS, 0), os.sched_getaffinity(0), death_signal_number.value,
        setlocale(locale.LC_ALL), sys.path, sys.meta_path, sys.path_hooks, sys.argv, [*map(is_closed, streams)],
        sys.gettrace(), gc.isenabled(), gc.get_threshold(), gc.get_debug(),
        arithmetic_of(contexts[0]), contexts[0].traps == contexts[1].traps, socket.getdefaulttimeout(),
        warnings.filters, levels(), outlets(),
    )  # fmt: skip


def first() -> object:
    """The parts that could keep an attempt from being reported: limits, timers, recursion depth, a profiler."""
    return (
        [*map(getrlimit, RLIMITS)], [*map(signal.getitimer, TIMERS)], sys.getrecursionlimit(), sys.getprofile(),
    )  # fmt: skip


def in_names() -> object:
    """The parts that live in dictionaries; where dictionaries have versions, a look at the version is enough."""
    return environment(), time_zone(), system()
