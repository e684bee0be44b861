"""Actions of people: apply a file, manage servers, groups, jobs, runs and tasks; and find things by name.

Each action is one transaction, which also takes back the tickets that no longer hold. Tickets for what it
freed leave with the next advance.
"""

from typing import TYPE_CHECKING

from batchq.lazy import attributes

if TYPE_CHECKING:
    from batchq.actions.bulk import RunFilter
    from batchq.actions.change import Change
    from batchq.actions.file import apply
    from batchq.actions.group import delete_group, pause_group, resume_group, set_group
    from batchq.actions.job import release_job, withhold_job
    from batchq.actions.limit import delete_limit, set_limit
    from batchq.actions.override import end_override, override_server
    from batchq.actions.rerun import accept_task, retry_run, retry_runs, retry_task, set_run_priority
    from batchq.actions.run import cancel_run, cancel_runs, hold_run, hold_runs, release_run, release_runs
    from batchq.actions.server import (
        add_groups,
        delete_server,
        disable,
        enable,
        ensure_server,
        remove_groups,
        set_groups,
        set_server,
    )
    from batchq.actions.task import abort_task
    from batchq.actions.window import add_window, remove_window
    from batchq.store.find import find_group, find_job, find_run, find_server, find_task

__all__ = [
    "Change",
    "RunFilter",
    "abort_task",
    "accept_task",
    "add_groups",
    "add_window",
    "apply",
    "cancel_run",
    "cancel_runs",
    "delete_group",
    "delete_limit",
    "delete_server",
    "disable",
    "enable",
    "end_override",
    "ensure_server",
    "find_group",
    "find_job",
    "find_run",
    "find_server",
    "find_task",
    "hold_run",
    "hold_runs",
    "override_server",
    "pause_group",
    "release_job",
    "release_run",
    "release_runs",
    "remove_groups",
    "remove_window",
    "resume_group",
    "retry_run",
    "retry_runs",
    "retry_task",
    "set_group",
    "set_groups",
    "set_limit",
    "set_run_priority",
    "set_server",
    "withhold_job",
]

__getattr__ = attributes(
    __name__,
    {
        "Change": "batchq.actions.change",
        "RunFilter": "batchq.actions.bulk",
        "abort_task": "batchq.actions.task",
        "accept_task": "batchq.actions.rerun",
        "add_groups": "batchq.actions.server",
        "add_window": "batchq.actions.window",
        "apply": "batchq.actions.file",
        "cancel_run": "batchq.actions.run",
        "cancel_runs": "batchq.actions.run",
        "delete_group": "batchq.actions.group",
        "delete_limit": "batchq.actions.limit",
        "delete_server": "batchq.actions.server",
        "disable": "batchq.actions.server",
        "enable": "batchq.actions.server",
        "end_override": "batchq.actions.override",
        "ensure_server": "batchq.actions.server",
        "find_group": "batchq.store.find",
        "find_job": "batchq.store.find",
        "find_run": "batchq.store.find",
        "find_server": "batchq.store.find",
        "find_task": "batchq.store.find",
        "hold_run": "batchq.actions.run",
        "hold_runs": "batchq.actions.run",
        "override_server": "batchq.actions.override",
        "pause_group": "batchq.actions.group",
        "release_job": "batchq.actions.job",
        "release_run": "batchq.actions.run",
        "release_runs": "batchq.actions.run",
        "remove_groups": "batchq.actions.server",
        "remove_window": "batchq.actions.window",
        "resume_group": "batchq.actions.group",
        "retry_run": "batchq.actions.rerun",
        "retry_runs": "batchq.actions.rerun",
        "retry_task": "batchq.actions.rerun",
        "set_group": "batchq.actions.group",
        "set_groups": "batchq.actions.server",
        "set_limit": "batchq.actions.limit",
        "set_run_priority": "batchq.actions.rerun",
        "set_server": "batchq.actions.server",
        "withhold_job": "batchq.actions.job",
    },
)
