"""Every error a user can meet: one sentence with the fact, the place and the next step, and an exit code.

    BatchqError                 1
    ├── InvalidInput            2   the input breaks a rule
    ├── NotFound                3   nothing has that name or number
    ├── Unreachable             4   something does not answer
    │   ├── DatabaseUnreachable
    │   │   └── DatabaseRefuses
    │   │       └── DatabaseDamaged
    │   │           └── DatabaseLost
    │   ├── DatabaseOutdated
    │   ├── DatabaseTooNew
    │   ├── BrokerUnreachable
    │   ├── NoBroker
    │   └── PlaceRefuses
    ├── Conflict                5   the present state does not allow it
    │   ├── Broken
    │   └── ServerRuns
    └── QueueRefused            5   the broker refuses one queue

The numbers are exit codes. One more error stands where it is raised: `StartFailed` (1), in `batchq.embedded`.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import ClassVar


class BatchqError(Exception):
    """Base of all errors that batchq raises on purpose; `str()` is the sentence to print.

    `exit_code`: 1 negative result, 2 usage or invalid input, 3 not found, 4 broker or database
    unreachable, 5 conflict.
    """

    exit_code: ClassVar[int] = 1
    text: ClassVar[str] = "{0}"

    def __init__(self, *args: object, **facts: object) -> None:
        super().__init__(self.text.format(*args, **facts))
        self.facts = facts


class InvalidInput(BatchqError):
    """The input breaks a rule; the message names file, line and field where they are known."""

    exit_code = 2


class NotFound(BatchqError):
    """A name or number that the command was given does not exist."""

    exit_code = 3


class Unreachable(BatchqError):
    """The broker or the database does not answer."""

    exit_code = 4


class DatabaseUnreachable(Unreachable):
    """The database does not answer."""

    text = "The database {url} does not answer ({reason}). Start it, or set BATCHQ_DATABASE_URL to one that runs."


class DatabaseRefuses(DatabaseUnreachable):
    """The database answers, and refuses whatever it is asked; `advice` says what helps."""

    text = "The database {url} refuses ({reason}). {advice}"


class DatabaseDamaged(DatabaseRefuses):
    """The database's file is damaged: no waiting helps."""


class DatabaseLost(DatabaseDamaged):
    """The file of the database was deleted or replaced while this process had it open."""

    text = (
        "The file of the database {url}, or its -wal or -shm, was deleted or replaced under this process: "
        "what it stored since is lost. Put back what belongs there, and start again."
    )


class PlaceRefuses(Unreachable):
    """A folder or file of this machine that is needed cannot be used."""

    text = "{path} cannot be used ({reason}). {advice}"

    @classmethod
    def of(cls, error: OSError, place: object, advice: str) -> PlaceRefuses:
        """The error for an act that the system refused at the place, or below it."""
        return cls(path=error.filename or place, reason=error.strerror or error, advice=advice)


class DatabaseOutdated(Unreachable):
    """The database has an older schema than this version needs, or none."""

    text = "The database {url} {fact}. Run `batchq db upgrade` first."


class DatabaseTooNew(Unreachable):
    """The database has a schema of a later version of batchq."""

    text = (
        "The database {url} is at schema {revision}; this version of batchq knows none after {newest}. "
        "Install the version that upgraded it."
    )


class BrokerUnreachable(Unreachable):
    """The broker does not answer."""

    text = "The broker {url} does not answer ({reason}). Start it, or set BATCHQ_BROKER_URL to one that runs."


class QueueRefused(BatchqError):
    """The broker answers, but refuses this one queue; all others may be well."""

    exit_code = 5
    text = "The broker refuses the queue {queue} ({reason}). {advice}"


class NoBroker(Unreachable):
    """Nothing says which broker to use."""

    text = (
        "No broker is named, and no engine runs in this folder. "
        "Start one with `batchq dev`, or set BATCHQ_BROKER_URL to a broker that runs."
    )


class Conflict(BatchqError):
    """The present state of the thing does not allow the command."""

    exit_code = 5


class Broken(Conflict):
    """Values stored for the thing can be neither read nor changed."""

    text = "What is stored there can be neither read nor changed ({reason}). `batchq check` names the row."


class ServerRuns(Conflict):
    """Another process is the server of this name."""

    text = "{name} already runs as pid {pid} on host {host}. Stop it first, or start this server under another name."


def unknown(kind: str, name: object, known: Iterable[str], *, advice: str = "") -> NotFound:
    """The `NotFound` for `name`, with the closest of the `known` names (rule 13)."""
    return NotFound(f"No {kind} {str(name)!r}{closest(str(name), known)}.{' ' + advice if advice else ''}")


def closest(name: str, known: Iterable[str]) -> str:
    """`'; did you mean 'x'?'`-clause for a mistyped name, or an empty string."""
    names = {candidate.casefold(): candidate for candidate in known}
    match = get_close_matches(name.casefold(), names, n=1, cutoff=0.6)
    return f" (closest: {names[match[0]]!r})" if match else ""
