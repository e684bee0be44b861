"""Every error that users meet, with its code, facts, sentence, next step and exit code.

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

The numbers are exit codes. One more error is defined where it is raised: `StartFailed` (1), in `batchq.embedded`.

An error's code is its class name in kebab-case, such as `database-outdated`. Programs compare it. A next step that
batchq itself can take is an `Advice`. `str()` names it as a Python function, or in processes of the program `batchq`
as a command.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from difflib import get_close_matches
from enum import StrEnum
from typing import ClassVar, NamedTuple


class Action(StrEnum):
    """A next step that batchq itself can take."""

    UPGRADE = "upgrade-database"
    START_ENGINE = "start-engine"
    RUN = "run-job"
    SUBMIT = "submit-job"
    CANCEL = "cancel-run"
    RELEASE_JOB = "release-job"
    CHECK = "check-rows"
    LIST_JOBS = "list-jobs"
    LIST_TASKS = "list-tasks"
    LIST_GROUPS = "list-groups"
    LIST_LIMITS = "list-limits"
    LIST_SERVERS = "list-servers"
    LIST_WINDOWS = "list-windows"
    SET_GROUPS = "set-groups"
    SET_THREADS = "set-threads"


IN_PYTHON = {
    Action.UPGRADE: "batchq.store.schema.upgrade",
    Action.START_ENGINE: "batchq.embedded.Embedded",
    Action.RUN: "batchq.embedded.Embedded",
    Action.SUBMIT: "batchq.BatchQ.submit",
    Action.CANCEL: "batchq.actions.cancel_run",
    Action.RELEASE_JOB: "batchq.actions.release_job",
    Action.CHECK: "batchq.store.broken.broken",
    Action.LIST_JOBS: "batchq.views.jobs",
    Action.LIST_TASKS: "batchq.views.run_view",
    Action.LIST_GROUPS: "batchq.views.groups",
    Action.LIST_LIMITS: "batchq.views.limits",
    Action.LIST_SERVERS: "batchq.views.servers",
    Action.LIST_WINDOWS: "batchq.views.server_view",
    Action.SET_GROUPS: "batchq.actions.set_groups",
    Action.SET_THREADS: "batchq.actions.set_server",
}


# Names an action with its arguments: as a Python function, or as a command.
Words = Callable[[Action, tuple[str, ...]], str]


def in_python(action: Action, arguments: tuple[str, ...]) -> str:
    """The Python function that takes the action, without arguments."""
    return f"`{IN_PYTHON[action]}`"


_words: Words = in_python


def name_actions(words: Words) -> None:
    """Name actions by `words` in this whole process, its log included: a program's users do not call functions."""
    global _words
    _words = words


class Advice(NamedTuple):
    """A next step: a sentence with `{}` for the action's name, the action, and its arguments."""

    sentence: str
    action: Action
    arguments: tuple[str, ...] = ()

    def told(self, words: Words | None = None) -> str:
        """The sentence, its action named by `words` or else by the words of this process."""
        return self.sentence.format((words or _words)(self.action, self.arguments))


class BatchqError(Exception):
    """Base of all errors that batchq raises on purpose; `str()` is the sentence and the next step.

    `exit_code`: 1 negative result, 2 usage or invalid input, 3 not found, 4 broker or database unreachable, 5 conflict.
    `advice` is an `Advice`, a text if no action of batchq helps, or empty if no help is known.
    """

    code: ClassVar[str] = "batchq-error"
    exit_code: ClassVar[int] = 1
    text: ClassVar[str] = "{0}"
    advice: Advice | str = ""

    def __init__(self, *args: object, advice: Advice | str | None = None, **facts: object) -> None:
        self.sentence = self.text.format(*args, **facts)
        self.facts = facts
        if advice is not None:
            self.advice = advice
        super().__init__(self.told())

    def told(self, words: Words | None = None) -> str:
        """The sentence and the next step, its action named by `words` or else by the words of this process."""
        advice = self.advice.told(words) if isinstance(self.advice, Advice) else self.advice
        return f"{self.sentence} {advice}" if advice else self.sentence


class InvalidInput(BatchqError):
    """The input breaks a rule; the message names file, line and field where they are known."""

    code = "invalid-input"
    exit_code = 2


class NotFound(BatchqError):
    """A name or number that the command was given does not exist."""

    code = "not-found"
    exit_code = 3


class Unreachable(BatchqError):
    """The broker or the database does not answer."""

    code = "unreachable"
    exit_code = 4


class DatabaseUnreachable(Unreachable):
    """The database does not answer."""

    code = "database-unreachable"
    text = "The database {url} does not answer ({reason})."
    advice = "Start it, or set BATCHQ_DATABASE_URL to one that runs."


class DatabaseRefuses(DatabaseUnreachable):
    """The database answers, and refuses every request; `advice` says what helps."""

    code = "database-refuses"
    text = "The database {url} refuses ({reason})."
    advice = ""


class DatabaseDamaged(DatabaseRefuses):
    """The database's file is damaged: no waiting helps."""

    code = "database-damaged"


class DatabaseLost(DatabaseDamaged):
    """The file of the database was deleted or replaced while this process had it open."""

    code = "database-lost"
    text = (
        "The file of the database {url}, or its -wal or -shm, was deleted or replaced under this process: "
        "what it stored since is lost."
    )
    advice = "Put back what belongs there, and start again."


class PlaceRefuses(Unreachable):
    """A folder or file of this machine that is needed cannot be used."""

    code = "place-refuses"
    text = "{path} cannot be used ({reason})."

    @classmethod
    def of(cls, error: OSError, place: object, advice: str) -> PlaceRefuses:
        """The error for an act that the system refused at the place, or below it."""
        return cls(path=error.filename or place, reason=error.strerror or error, advice=advice)


class DatabaseOutdated(Unreachable):
    """The database has an older schema than this version needs, or none."""

    code = "database-outdated"
    text = "The database {url} {fact}."
    advice = Advice("Run {} first.", Action.UPGRADE)


class DatabaseTooNew(Unreachable):
    """The database has a schema of a later version of batchq."""

    code = "database-too-new"
    text = "The database {url} is at schema {revision}; this version of batchq knows none after {newest}."
    advice = "Install the version that upgraded it."


class BrokerUnreachable(Unreachable):
    """The broker does not answer."""

    code = "broker-unreachable"
    text = "The broker {url} does not answer ({reason})."
    advice = "Start it, or set BATCHQ_BROKER_URL to one that runs."


class QueueRefused(BatchqError):
    """The broker answers, but refuses this one queue; all others may be well."""

    code = "queue-refused"
    exit_code = 5
    text = "The broker refuses the queue {queue} ({reason})."


class NoBroker(Unreachable):
    """Nothing says which broker to use."""

    code = "no-broker"
    text = "No broker is named, and no engine runs in this folder."
    advice = Advice("Start one with {}, or set BATCHQ_BROKER_URL to a broker that runs.", Action.START_ENGINE)


class Conflict(BatchqError):
    """The present state of the thing does not allow the command."""

    code = "conflict"
    exit_code = 5


class Broken(Conflict):
    """Values stored for the thing can be neither read nor changed."""

    code = "broken"
    text = "What is stored there can be neither read nor changed ({reason})."
    advice = Advice("{} names the row.", Action.CHECK)


class ServerRuns(Conflict):
    """Another process is the server of this name."""

    code = "server-runs"
    text = "{name} already runs as pid {pid} on host {host}."
    advice = "Stop it first, or start this server under another name."


def unknown(kind: str, name: object, known: Iterable[str], *, advice: Advice | str = "") -> NotFound:
    """The `NotFound` for `name`, with the closest of the `known` names (rule 13)."""
    said = f"No {kind} {str(name)!r}{closest(str(name), known)}."
    return NotFound(said, kind=kind, name=str(name), advice=advice)


def closest(name: str, known: Iterable[str]) -> str:
    """`'; did you mean 'x'?'`-clause for a mistyped name, or an empty string."""
    names = {candidate.casefold(): candidate for candidate in known}
    match = get_close_matches(name.casefold(), names, n=1, cutoff=0.6)
    return f" (closest: {names[match[0]]!r})" if match else ""
