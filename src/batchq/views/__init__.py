"""What people read: plain dicts with stable keys, each made by a few set-wise statements.

Times are ISO 8601 in UTC with microseconds (`2026-01-31T12:00:00.123456Z`), durations are seconds, and an unknown
value is null. Statuses are the words of rule 6. The CLI prints these dicts with `-o json` as they are.
"""

from batchq.store.find import definition
from batchq.store.group import PRIORITY_NAMES
from batchq.views.group import groups
from batchq.views.instants import View, clock, iso
from batchq.views.job import job_view, jobs
from batchq.views.problems import setup_problems
from batchq.views.run import run_view, runs
from batchq.views.server import (
    executing,
    periods,
    server_state,
    server_view,
    servers,
)
from batchq.views.status import status_view
from batchq.views.task import task_view
from batchq.views.why import Reasons

__all__ = [
    "PRIORITY_NAMES",
    "Reasons",
    "View",
    "clock",
    "definition",
    "executing",
    "groups",
    "iso",
    "job_view",
    "jobs",
    "periods",
    "run_view",
    "runs",
    "server_state",
    "server_view",
    "servers",
    "setup_problems",
    "status_view",
    "task_view",
]
