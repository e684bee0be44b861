"""Jobs: withhold and release one; and as a file names them, with what differs from the stored definition."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import partial
from typing import NamedTuple

from sqlalchemy import func, select

from batchq import aside, user
from batchq.actions.change import Change, Step, check_reason, take
from batchq.core.json import JSON
from batchq.core.states import RUN_OPEN
from batchq.errors import Conflict
from batchq.spec import JobSpec
from batchq.store.columns import JOB, RUN
from batchq.store.database import Database
from batchq.store.find import find_job
from batchq.store.job import keep_job, withhold
from batchq.store.transaction import Tx
from batchq.views import JobResult, clock


class JobFacts(NamedTuple):
    """A job as an action finds it."""

    id: int
    name: str
    withheld: bool
    withheld_by: str | None
    withheld_why: str | None


def withhold_job(database: Database, name: str, *, reason: str | None = None, dry_run: bool = False) -> JobResult:
    """Let no run of a job start, from the moment that this returns; its open runs go on (rule 33).

    With `dry_run` nothing is changed. Raises NotFound, and Conflict for a job that is withheld already.
    """
    return _act(database, name, True, reason, dry_run)


def release_job(database: Database, name: str, *, reason: str | None = None, dry_run: bool = False) -> JobResult:
    """Let runs of a withheld job start again (rule 33).

    With `dry_run` nothing is changed. Raises NotFound, and Conflict for a job that is not withheld.
    """
    return _act(database, name, False, reason, dry_run)


def _act(database: Database, name: str, withheld: bool, reason: str | None, dry_run: bool) -> JobResult:
    check_reason(reason)
    if dry_run:
        with database.read() as tx:
            return _result(tx, _facts(tx, name, withheld, lock=False), withheld)
    return aside.run(database, _withhold, name, withheld, reason)


def _withhold(tx: Tx, name: str, withheld: bool, reason: str | None) -> JobResult:
    # A submit locks the job too: the one that comes first is stored, and the next one sees this change.
    job = _facts(tx, name, withheld, lock=True)
    before, after, word = ("no", "yes", "withhold") if withheld else ("yes", "no", "release")
    change = Change("job", name, "withheld", before, after, word=word)
    make = partial(withhold, tx, job.id, withheld, user.actor().who, reason, tx.now())
    take(tx, [Step((change,), make)], 0, reason)
    return _result(tx, job, withheld)


def _facts(tx: Tx, name: str, withheld: bool, *, lock: bool) -> JobFacts:
    """The job that is to be withheld, or released; raises Conflict if it is so already."""
    found = select(*(JOB[field] for field in JobFacts._fields)).where(JOB.id == find_job(tx, name))
    job = JobFacts._make(tx.execute(found.with_for_update() if lock else found).one())
    if withheld and job.withheld:
        raise Conflict(f"Job {name} is withheld already{user.by_whom(job.withheld_by, job.withheld_why)}.")
    if not (withheld or job.withheld):
        raise Conflict(f"Job {name} is not withheld.")
    return job


def _result(tx: Tx, job: JobFacts, withheld: bool) -> JobResult:
    open_ = select(func.count()).where(RUN.job_id == job.id, RUN.status.in_([state.value for state in RUN_OPEN]))
    number = int(tx.execute(open_).scalar_one())
    return {
        "job": job.name,
        "action": "withhold" if withheld else "release",
        "withheld": withheld,
        "open_runs": number,
    }


# --- as a file has them -------------------------------------------------------------------------------------


def job_steps(tx: Tx, name: str, job: JobSpec) -> Iterator[Step]:
    """Make the job as it is given, if it differs."""
    wanted = json.loads(job.model_dump_json(exclude_defaults=True))
    stored = tx.execute(select(JOB.definition).where(JOB.name == name)).scalar()
    present = None if stored is None else json.loads(stored)
    if present is None:
        change = Change("job", name, after=f"tasks: {len(job.tasks)}")
    elif present != wanted:
        change = Change("job", name, "definition", said=_difference(present, wanted))
    else:
        return
    limited = job.tasks_at_once != (present or {}).get("tasks_at_once")
    yield Step((change,), lambda: keep_job(tx, job, clock(tx)), topology=limited)


def _difference(present: Mapping[str, JSON], wanted: Mapping[str, JSON]) -> str:
    before, after = ({task["name"]: task for task in job["tasks"]} for job in (present, wanted))
    found = {
        "added": [name for name in after if name not in before],
        "removed": [name for name in before if name not in after],
        "changed": [name for name in after if name in before and after[name] != before[name]],
    }
    words = [f"{some(names)} {word}" for word, names in found.items() if names]
    keys = {key for key in {*present, *wanted} - {"tasks"} if present.get(key) != wanted.get(key)}
    words += [f"{key} {present.get(key) or 'none'} → {wanted.get(key) or 'none'}" for key in sorted(keys)]
    return "; ".join(words) or "tasks in another order"


def some(names: list[str], most: int = 5) -> str:
    """The names in a row; the last of them as a number if there are more than `most`."""
    return ", ".join(names if len(names) <= most else [*names[: most - 1], f"{len(names) - most + 1} more"])
