"""Abort: which pools let one executing task be stopped without hurting another (rule 32)."""

from __future__ import annotations

THREADS = "threads"
# Celery's prefork pool with `-O fast`.
FAST = "prefork -O fast"
_UNFIT = {
    THREADS: "{} runs tasks in threads, and no thread can be stopped alone",
    FAST: "{} was started with -O fast, so that a process may have a second task waiting in it",
}


def unfit_pool(kind: str | None, server: str) -> str | None:
    """Why no task on this server can be aborted, by the kind of its pool, in one clause; None if tasks can be."""
    found = _UNFIT.get(kind or "")
    return found and found.format(server)
