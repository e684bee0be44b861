"""Aborts on a server: remote control asks for them, the watch finds them in SQL, and the loop stops them (rule 32)."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable

from celery.worker import state

from batchq import user
from batchq.actions.task import abort_attempt
from batchq.errors import Conflict, DatabaseUnreachable, NotFound
from batchq.server.execution import Execution
from batchq.store.database import Database

logger = logging.getLogger(__name__)


class Aborts:
    """The attempts of one server that are to be aborted; `soon` has the worker's loop call a function."""

    def __init__(self, soon: Callable[[Callable[[], object]], object] = lambda _: None) -> None:
        self._soon = soon
        self._asked: deque[tuple[int, str]] = deque()
        self._found: frozenset[str] = frozenset()

    def ask(self, task: int, token: str) -> None:
        """Note that somebody wants this attempt aborted, until `mark` says so in SQL; callable from any thread."""
        self._asked.append((task, token))

    def mark(self, database: Database) -> None:
        """Mark in SQL the attempts that were asked for, as `batchq task abort` does; for the watch's thread.

        Raises DatabaseUnreachable; the attempts that are left then stay for the next call.
        """
        while self._asked:
            asked = self._asked.popleft()
            try:
                with user.acting("page", "remote control"):
                    abort_attempt(database, *asked)
            except (Conflict, NotFound) as error:
                logger.warning("%s", error)
            except DatabaseUnreachable:
                self._asked.appendleft(asked)
                raise

    def find(self, tokens: Iterable[str]) -> None:
        """Take in the attempts of this server that are marked in SQL; for the watch's thread."""
        self._found = frozenset(tokens)
        if self._found:
            self._soon(self.stop)

    def stop(self) -> None:
        """Stop the marked attempts that execute here; to be called in the loop, again until they have ended.

        Only in the loop is it sure that a process still runs the attempt: no report of it has been read yet.
        """
        for token in self._found:
            attempt = state.requests.get(token)
            if isinstance(attempt, Execution):
                attempt.abort()
