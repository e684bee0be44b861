"""Jobs as a file names them: the newest definition is stored, and what differs is told."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from sqlalchemy import select

from batchq.actions.change import Change, Step
from batchq.core.json import JSON
from batchq.spec import JobSpec
from batchq.store.columns import JOB
from batchq.store.job import keep_job
from batchq.store.transaction import Tx
from batchq.views import clock


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
    yield Step((change,), lambda: keep_job(tx, job, clock(tx)))


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
