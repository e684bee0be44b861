"""The person for whom a process acts, and the way they take; the audit names both (rule 39)."""

from __future__ import annotations

import getpass
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

VARIABLE = "BATCHQ_USER"
LONGEST = 200  # characters


@dataclass(frozen=True, slots=True)
class Actor:
    """The person who acts, and the way they take: cli, python, page or coordinator."""

    who: str
    by: str


_actor: ContextVar[Actor | None] = ContextVar("batchq_actor", default=None)


def acting_user() -> str:
    """The name of the person for whom this process acts: `BATCHQ_USER`, else user@host."""
    name = os.environ.get(VARIABLE, "").strip() or f"{_login()}@{platform.node()}"
    # The environment may hold bytes that no database takes.
    return "".join(each if each.isprintable() else "?" for each in name[:LONGEST])


def by_whom(who: str | None, why: str | None) -> str:
    """The person and the reason in brackets, after what was done; empty if nobody knows."""
    said = [f"by {who}" if who else "", repr(why) if why else ""]
    return f" ({': '.join(filter(None, said))})" if any(said) else ""


def _login() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        return str(os.getuid())


def actor() -> Actor:
    """The person and the way of the action under way; outside of `acting` the user of this process, by Python."""
    return _actor.get() or Actor(acting_user(), "python")


@contextmanager
def acting(by: str, who: str | None = None) -> Iterator[None]:
    """Let the actions of the body be taken `by` this way, for the person `who`: by default the process's user."""
    token = _actor.set(Actor((who or acting_user())[:LONGEST], by))
    try:
        yield
    finally:
        _actor.reset(token)
