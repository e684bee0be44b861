"""The judge: the checker on a site that still runs, for the runs of a test."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from support import checker
from support.checker import cut_off as cut_off
from support.site import Site


@dataclass(frozen=True)
class Books:
    """A run in the database: its row, its tasks by name, and of each the attempts by number."""

    run: Any
    tasks: Mapping[str, Any]
    attempts: Mapping[str, Mapping[int, Any]]


def judge(site: Site, runs: Iterable[int], threads: Mapping[str, int]) -> None:
    """Fail with all that is wrong with these runs, all of which must have ended, and with the load of these servers."""
    books = _read(site)
    had = {name: server.threads for name, server in books.setup.servers.items()}
    assert had == dict(threads), f"the servers have {had} threads"
    found = checker.judge(site.written(), books, sorted(runs))
    assert not found, "\n".join(map(str, found))


def read(site: Site, run: int) -> Books:
    """What the database says of the run, at one moment."""
    books = _read(site)
    tasks = books.of(run)
    attempts: defaultdict[str, Mapping[int, Any]] = defaultdict(dict)
    attempts |= {name: books.attempts.get(task.id, {}) for name, task in tasks.items()}
    return Books(books.runs[run], tasks, attempts)


def _read(site: Site) -> checker.Books:
    with site.database.read() as tx:
        return checker.read(tx)
