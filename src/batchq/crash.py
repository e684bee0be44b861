"""For tests: the named points at which a process ends as by `kill -9`, when BATCHQ_CRASH=point:n asks for it.

The n-th pass counts, over the process that was started with the variable and all that it has forked, and it ends one
process, once: start the process again without the variable.
"""

from __future__ import annotations

import os
import re
from typing import NoReturn

from batchq.errors import InvalidInput, closest

VARIABLE = "BATCHQ_CRASH"
EXIT_CODE = 77
# Each name, and how far things have come there.
POINTS = {
    "chunk-stored": "submit: a chunk of a large run is stored, and the run is not open",
    "run-moving": "an operator's hold, release or cancel: it is in force, and not all of the run's rows are moved",
    "run-stored": "submit: the run is open, and none of it handed out",
    "forward-committed": "submit, or an operator's command: tickets are handed out, and none is published",
    "ticket-published": "anybody: one ticket is published, and the others of its commit are not",
    "ticket-arrived": "server: a ticket has come in, and nobody has looked at it",
    "claiming": "server: claims are written, and not committed",
    "claim-committed": "server: a claim is committed, and its attempt not started",
    "attempt-started": "server: an attempt is in the pool, and its message not acknowledged",
    "operation-ahead": "child: the operation has not begun",
    "operation": "child: the operation is under way; the point is passed by the tests' own",
    "operation-over": "child: the operation has ended, and its server does not know",
    "outcome-received": "server: an outcome has come in, and nothing of it is written",
    "finishing": "server: outcomes are written and settled, and not committed",
    "finish-committed": "server: outcomes are committed, and nothing is done about what follows",
    "handed-out": "server: tickets are handed out in a commit of its own, and the next one is not published",
    "enlisted": "server start: it has its name, and takes no ticket",
    "recovering": "server start, or a lost server: what its former life executed is written as lost, and not committed",
    "ticking": "coordinator: all that a tick does is written, and not committed",
    "tick-committed": "coordinator: a tick is committed, and none of its tickets published",
}
LAST = b"!"


class Crash:
    """The end of one process, at the `number`-th pass of the point."""

    def __init__(self, name: str, number: int) -> None:
        self.name = name
        # A fork inherits the pipe, and each byte of it is read by one process alone: so all count together.
        self._passes, filled = os.pipe()
        os.write(filled, b"." * (number - 1) + LAST)
        os.close(filled)

    @classmethod
    def parse(cls, text: str) -> Crash:
        """The crash that `point:n` asks for; raises InvalidInput."""
        name, _, number = text.partition(":")
        if name not in POINTS:
            raise InvalidInput(f"{VARIABLE}: there is no point {name[:80]!r}{closest(name, POINTS)}.")
        if not re.fullmatch("[1-9][0-9]{0,3}", number):
            raise InvalidInput(
                f"{VARIABLE}: {text[:80]!r} does not say which pass is meant: write {name}:1, up to 9999."
            )
        return cls(name, int(number))

    def passed(self, name: str) -> None:
        """End the process if this is the pass that is meant."""
        if name == self.name and os.read(self._passes, 1) == LAST:
            self._end()

    def _end(self) -> NoReturn:
        os.write(2, f"{VARIABLE}: process {os.getpid()} ends at {self.name}\n".encode())
        os._exit(EXIT_CODE)


# Read when the process begins, so that its forks count with it.
_asked = os.environ.get(VARIABLE)
_crash = Crash.parse(_asked) if _asked else None


def point(name: str) -> None:
    """Pass the point of this name: nothing happens, unless a test wants the process to end here."""
    if _crash is not None:
        _crash.passed(name)
