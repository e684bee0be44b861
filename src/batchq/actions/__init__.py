"""Actions of people: apply a file, manage servers and groups, cancel a run, abort a task; and find things by name.

Each action is one transaction, which also takes back the tickets that no longer hold. Tickets for what it
freed leave with the next advance.
"""

from typing import TYPE_CHECKING

from batchq.lazy import attributes

if TYPE_CHECKING:
    from batchq.actions.change import Change
    from batchq.actions.file import apply
    from batchq.actions.group import delete_group, pause_group, resume_group, set_group
    from batchq.actions.run import cancel_run
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
    "abort_task",
    "add_groups",
    "add_window",
    "apply",
    "cancel_run",
    "delete_group",
    "delete_server",
    "disable",
    "enable",
    "ensure_server",
    "find_group",
    "find_job",
    "find_run",
    "find_server",
    "find_task",
    "pause_group",
    "remove_groups",
    "remove_window",
    "resume_group",
    "set_group",
    "set_groups",
    "set_server",
]

__getattr__ = attributes(
    __name__,
    {
        "Change": "batchq.actions.change",
        "abort_task": "batchq.actions.task",
        "add_groups": "batchq.actions.server",
        "add_window": "batchq.actions.window",
        "apply": "batchq.actions.file",
        "cancel_run": "batchq.actions.run",
        "delete_group": "batchq.actions.group",
        "delete_server": "batchq.actions.server",
        "disable": "batchq.actions.server",
        "enable": "batchq.actions.server",
        "ensure_server": "batchq.actions.server",
        "find_group": "batchq.store.find",
        "find_job": "batchq.store.find",
        "find_run": "batchq.store.find",
        "find_server": "batchq.store.find",
        "find_task": "batchq.store.find",
        "pause_group": "batchq.actions.group",
        "remove_groups": "batchq.actions.server",
        "remove_window": "batchq.actions.window",
        "resume_group": "batchq.actions.group",
        "set_group": "batchq.actions.group",
        "set_groups": "batchq.actions.server",
        "set_server": "batchq.actions.server",
    },
)
