"""A job as people read it: how its runs stand, and its newest definition."""

from __future__ import annotations

import json
from typing import TypedDict

from sqlalchemy import case, func, select

from batchq.core import secrets
from batchq.core.json import JSON
from batchq.core.states import RUN_ENDED, RUN_OPEN
from batchq.core.why import withheld
from batchq.store.columns import JOB, RUN
from batchq.store.find import definition, no_such
from batchq.store.tables import JobRow, Run
from batchq.store.transaction import Tx
from batchq.views.instants import iso
from batchq.views.rows import Selected
from batchq.views.run import RunCounts, RunLine, run_line, runs


class JobLine(TypedDict):
    """A job and its newest run; `status` is null before the first one, and `why` says why no run of it starts."""

    job: str
    status: str | None
    withheld_by: str | None
    withheld_why: str | None
    why: str | None
    updated_at: str | None
    run_count: int
    last_run: RunLine | None


class JobView(JobLine):
    """A job with its definition, in which secrets are masked, and its newest runs."""

    definition: dict[str, JSON]
    runs: list[RunCounts]


def jobs(tx: Tx) -> list[JobLine]:
    """All jobs by name: `status` as rule 6 has it (null before the first run), and the newest run."""
    latest = select(RUN.job_id, func.count().label("runs"), func.max(RUN.id).label("run"), _OPEN_RUNS)
    newest = latest.group_by(RUN.job_id).subquery()
    statement = (
        select(
            JOB.name,
            JOB.updated_at,
            JOB.withheld,
            JOB.withheld_by,
            JOB.withheld_why,
            newest.c.runs,
            newest.c.open,
            _VERDICT,
            Run.__table__,
        )
        .select_from(JobRow)
        .outerjoin(newest, newest.c.job_id == JOB.id)
        .outerjoin(Run, RUN.id == newest.c.run)
        .order_by(JOB.name)
    )
    return [_line(row) for row in tx.execute(statement)]


_OPEN_RUNS = func.sum(case((RUN.status.in_([state.value for state in RUN_OPEN]), 1), else_=0)).label("open")
_ENDED = Run.__table__.alias("ended")
_VERDICT = (
    select(_ENDED.c.status)
    .where(_ENDED.c.job_id == JOB.id, _ENDED.c.status.in_([state.value for state in RUN_ENDED]))
    .order_by(_ENDED.c.ended_at.desc(), _ENDED.c.id.desc())
    .limit(1)
    .scalar_subquery()
    .label("verdict")
)


def job_view(tx: Tx, name: str, newest: int = 10) -> JobView:
    """A job with its newest definition and its `newest` runs; raises NotFound, with the closest name."""
    lines = {line["job"]: line for line in jobs(tx)}
    if name not in lines:
        raise no_such("job", name, lines)
    return {
        **lines[name],
        "definition": secrets.masked_definition(json.loads(definition(tx, name))),
        "runs": runs(tx, job=name, limit=newest),
    }


def _line(row: Selected) -> JobLine:
    return {
        "job": row.name,
        "status": "withhold" if row.withheld else "executing" if row.open else row.verdict,
        "withheld_by": row.withheld_by,
        "withheld_why": row.withheld_why,
        "why": withheld(row.withheld_by, None, row.withheld_why) if row.withheld else None,
        "updated_at": iso(row.updated_at),
        "run_count": row.runs or 0,
        "last_run": run_line(row) if row.id is not None else None,
    }
