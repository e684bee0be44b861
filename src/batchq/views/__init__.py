"""Views for people: plain dicts with stable keys, each made by a few set-wise statements.

Times are ISO 8601 in UTC with microseconds (`2026-01-31T12:00:00.123456Z`), durations are seconds, and an unknown
value is null. Statuses are the words of rule 6. The CLI prints these dicts with `-o json` as they are.
"""

from typing import TYPE_CHECKING

from batchq.lazy import attributes

if TYPE_CHECKING:
    from batchq.core.priority import PRIORITY_NAMES
    from batchq.store.find import definition
    from batchq.views.acted import JobResult, RunResult, TaskResult
    from batchq.views.audit import AuditLine, audit_lines
    from batchq.views.failure import FailedAttempt, FailureView, failures
    from batchq.views.group import GroupView, groups
    from batchq.views.instants import clock, iso
    from batchq.views.job import JobLine, JobView, job_view, jobs
    from batchq.views.limit import LimitView, limits
    from batchq.views.listing import Chosen, ListedTask, tasks
    from batchq.views.problems import setup_problems
    from batchq.views.run import RunCounts, RunLine, RunView, run_view, runs
    from batchq.views.server import (
        ExecutingView,
        NextChange,
        OverrideView,
        PeriodView,
        ServerView,
        WindowView,
        executing,
        override_view,
        periods,
        server_state,
        server_view,
        servers,
    )
    from batchq.views.status import StatusView, status_view
    from batchq.views.task import AttemptView, TaskLine, TaskView, task_view
    from batchq.views.why import ConditionView, Reasons

__all__ = [
    "PRIORITY_NAMES",
    "AttemptView",
    "AuditLine",
    "Chosen",
    "ConditionView",
    "ExecutingView",
    "FailedAttempt",
    "FailureView",
    "GroupView",
    "JobLine",
    "JobResult",
    "JobView",
    "LimitView",
    "ListedTask",
    "NextChange",
    "OverrideView",
    "PeriodView",
    "Reasons",
    "RunCounts",
    "RunLine",
    "RunResult",
    "RunView",
    "ServerView",
    "StatusView",
    "TaskLine",
    "TaskResult",
    "TaskView",
    "WindowView",
    "audit_lines",
    "clock",
    "definition",
    "executing",
    "failures",
    "groups",
    "iso",
    "job_view",
    "jobs",
    "limits",
    "override_view",
    "periods",
    "run_view",
    "runs",
    "server_state",
    "server_view",
    "servers",
    "setup_problems",
    "status_view",
    "task_view",
    "tasks",
]

__getattr__ = attributes(
    __name__,
    {
        "AttemptView": "batchq.views.task",
        "Chosen": "batchq.views.listing",
        "AuditLine": "batchq.views.audit",
        "ConditionView": "batchq.views.why",
        "ExecutingView": "batchq.views.server",
        "FailedAttempt": "batchq.views.failure",
        "FailureView": "batchq.views.failure",
        "GroupView": "batchq.views.group",
        "JobLine": "batchq.views.job",
        "JobResult": "batchq.views.acted",
        "JobView": "batchq.views.job",
        "LimitView": "batchq.views.limit",
        "ListedTask": "batchq.views.listing",
        "NextChange": "batchq.views.server",
        "OverrideView": "batchq.views.server",
        "PRIORITY_NAMES": "batchq.core.priority",
        "PeriodView": "batchq.views.server",
        "Reasons": "batchq.views.why",
        "RunCounts": "batchq.views.run",
        "RunLine": "batchq.views.run",
        "RunResult": "batchq.views.acted",
        "TaskResult": "batchq.views.acted",
        "RunView": "batchq.views.run",
        "ServerView": "batchq.views.server",
        "StatusView": "batchq.views.status",
        "TaskLine": "batchq.views.task",
        "TaskView": "batchq.views.task",
        "WindowView": "batchq.views.server",
        "audit_lines": "batchq.views.audit",
        "clock": "batchq.views.instants",
        "definition": "batchq.store.find",
        "executing": "batchq.views.server",
        "failures": "batchq.views.failure",
        "groups": "batchq.views.group",
        "iso": "batchq.views.instants",
        "job_view": "batchq.views.job",
        "jobs": "batchq.views.job",
        "limits": "batchq.views.limit",
        "override_view": "batchq.views.server",
        "periods": "batchq.views.server",
        "run_view": "batchq.views.run",
        "runs": "batchq.views.run",
        "server_state": "batchq.views.server",
        "server_view": "batchq.views.server",
        "servers": "batchq.views.server",
        "setup_problems": "batchq.views.problems",
        "status_view": "batchq.views.status",
        "task_view": "batchq.views.task",
        "tasks": "batchq.views.listing",
    },
)
