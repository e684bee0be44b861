"""Overrides for people: their end as it is typed, and one phrase for each wherever windows are shown (rule 51)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime, time
from typing import TYPE_CHECKING

from batchq.cli.context import users_now
from batchq.cli.fields import Read, parse_instant, users_zone
from batchq.cli.output import count
from batchq.core.override import Override
from batchq.core.why import of_override
from batchq.core.windows import TIME, parse_time
from batchq.errors import InvalidInput

if TYPE_CHECKING:
    from batchq import views

NOW = "now"


def parse_until(text: str) -> time | datetime | str:
    """Read the end of an override: a time of day, an instant, or `now`; ValueError for anything else."""
    if text == NOW:
        return NOW
    if TIME.fullmatch(text):
        return parse_time(text)
    try:
        return parse_instant(text)
    except ValueError:
        raise ValueError(
            f"{text[:80]!r} is no end of an override. Write 07:30 for the next such time in your zone, an instant such "
            "as 2026-12-24T18:00, or now, which ends the override."
        ) from None


UNTIL = Read("until", parse_until)


def told_zone() -> str:
    """The zone in which instants are told: the user's, or UTC if nobody knows that one by name."""
    try:
        return users_zone()
    except InvalidInput:
        return "UTC"


def words(override: views.OverrideView, zone_name: str | None = None) -> str:
    """`10 threads by an override until 07:30 Europe/Oslo (olav: 'licence')`, in the user's zone or another."""
    until = override["until"]
    end = datetime.fromisoformat(until) if until else users_now()
    stored = Override(override["threads"], end, override["by"], override["why"], readable=until is not None)
    return f"{count(override['threads'], 'thread')} by {of_override(stored, zone_name or told_zone(), users_now())}"


def lines(servers: Iterable[views.ServerView]) -> Iterator[str]:
    """A line for each server that has an override."""
    for server in servers:
        if server["override"] is not None:
            yield f"{server['name']}: {words(server['override'])}"
