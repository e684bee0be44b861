"""The person for whom a process acts, and the way they take; the audit names both (rule 39)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Actor:
    """The person who acts, and the way they take: cli, python, page or coordinator."""

    who: str
    by: str


# The way, and the person if it is not the user of this process.
_acting: ContextVar[tuple[str, str | None]] = ContextVar("batchq_acting", default=("python", None))


def actor() -> Actor:
    """The person and the way of the action under way; outside of `acting` the user of this process, by Python."""
    from batchq.config import USER_CHARACTERS, acting_user  # it takes pydantic along, which no `--help` should wait for

    by, who = _acting.get()
    return Actor((who or acting_user())[:USER_CHARACTERS], by)


@contextmanager
def acting(by: str, who: str | None = None) -> Iterator[None]:
    """Let the actions of the body be taken `by` this way, for the person `who`: by default the process's user."""
    token = _acting.set((by, who))
    try:
        yield
    finally:
        _acting.reset(token)


def acting_for(who: str | None) -> AbstractContextManager[None]:
    """Let the actions of the body be taken for this person, by the way that they are taken anyhow."""
    by, standing = _acting.get()
    return acting(by, who or standing)


def by_whom(who: str | None, why: str | None) -> str:
    """The person and the reason in brackets, after what was done; empty if nobody knows."""
    said = [f"by {who}" if who else "", repr(why) if why else ""]
    return f" ({': '.join(filter(None, said))})" if any(said) else ""
