"""What operations themselves do to an installation: say what its database refuses, and spoil their process."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from batchq import Job
from batchq.errors import BatchqError
from drills.chaos.faults import Blow, Surgeon
from drills.chaos.hostile import PLACES, SPOILINGS

# One of each beside so many that are good and end at the same time.
GOOD, SECONDS = 3, 0.1
# A spoiled child is among those that run what comes next, if that is so many for each thread.
WELL = 3
ENDED = """SELECT name, attempt.status, attempt.error FROM batchq_attempt attempt JOIN batchq_task ON id = task_id
           WHERE run_id = :run"""


def poison(surgeon: Surgeon) -> Blow | None:
    """Outcomes that the database refuses for what they say; counted is the time from the end of the last good one."""
    job = Job("POISON")
    for place in PLACES:
        job.task(f"poisoned {place}", "ledger.poisoned", kwargs={"place": place, "seconds": SECONDS})
        for number in range(GOOD):
            job.task(f"good beside {place} {number}", "ledger.work", kwargs={"seconds": SECONDS})
    names = [f"good beside {place} {number}" for place in PLACES for number in range(GOOD)]
    with suppress(BatchqError, SQLAlchemyError):
        run, site = surgeon.site.submit(job), surgeon.site
        site.fault("poisoned reports")
        blow = Blow("poisoned report", f"{len(PLACES)} of them", time.monotonic(), None)
        stored: dict[str, float] = {}

        def over() -> bool:
            now = time.monotonic()
            for row in site.rows(ENDED, run=run) or ():
                stored.setdefault(row.name, now)
            if len(stored) < len(names) + len(PLACES):
                return False
            ends = {key[1]: end for key, end in site.started.ended.items() if key[0] == run}
            blow.since = now - max(stored[name] - ends[name] for name in names)
            return True

        blow.over = over
        return blow
    return None


def spoil(surgeon: Surgeon, ways: list[str] | None = None) -> Blow | None:
    """Spoil a child; counted is the time from then until what runs next is through, in every child there is."""
    way = ways or [surgeon.rng.choice(list(SPOILINGS))]
    job, site = Job("SPOIL"), surgeon.site
    for each in way:
        job.task(each, "ledger.spoil", kwargs={"way": each}, priority="high")
    for number in range(WELL * sum(site.servers.values())):
        job.task(f"well {number}", "ledger.well", after=dict.fromkeys(way, "finished"), priority="high")
    with suppress(BatchqError, SQLAlchemyError):
        run = site.submit(job)
        blow = Blow("child spoiled", ", ".join(way), time.monotonic(), None)

        def over() -> bool:
            ends = [end for key, end in site.started.ended.items() if key[0] == run and key[1] in way]
            rows = site.rows(ENDED, run=run) or ()
            if len(ends) < len(way) or len(rows) < len(job.spec().tasks):
                return False
            blow.since = max(ends)
            surgeon.said += [f"{row.name} after {blow.subject}: {row.error}" for row in rows if _is_hurt(row)]
            return True

        blow.over = over if surgeon.alone else None
        return blow
    return None


def _is_hurt(row: Any) -> bool:
    return row.name.startswith("well") and row.status != "success"


def spoil_in_every_way(surgeon: Surgeon) -> Blow | None:
    """All at once, in as many children as there are."""
    return spoil(surgeon, list(SPOILINGS))
