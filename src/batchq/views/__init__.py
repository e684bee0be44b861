"""What people read: plain dicts with stable keys, each made by a few set-wise statements.

Times are ISO 8601 in UTC with microseconds (`2026-01-31T12:00:00.123456Z`), durations are seconds, and an unknown
value is null. Statuses are the words of rule 6. The CLI prints these dicts with `-o json` as they are.
"""

from typing import Any

from batchq.store.find import definition
from batchq.store.group import PRIORITY_NAMES
from batchq.views.group import GroupView, groups
from batchq.views.instants import clock, iso
from batchq.views.job import JobLine, JobView, job_view, jobs
from batchq.views.problems import setup_problems
from batchq.views.run import RunCounts, RunLine, RunView, run_view, runs
from batchq.views.server import (
    ExecutingView,
    NextChange,
    PeriodView,
    ServerView,
    WindowView,
    executing,
    periods,
    server_state,
    server_view,
    servers,
)
from batchq.views.status import StatusView, status_view
from batchq.views.task import AttemptView, TaskLine, TaskView, task_view
from batchq.views.why import ConditionView, Reasons

View = dict[str, Any]

__all__ = [
    "PRIORITY_NAMES",
    "AttemptView",
    "ConditionView",
    "ExecutingView",
    "GroupView",
    "JobLine",
    "JobView",
    "NextChange",
    "PeriodView",
    "Reasons",
    "RunCounts",
    "RunLine",
    "RunView",
    "ServerView",
    "StatusView",
    "TaskLine",
    "TaskView",
    "View",
    "WindowView",
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
