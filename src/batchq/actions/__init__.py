"""What people do: apply a file, manage servers and groups, cancel a run; and how they find things by name.

Each action is one transaction, which also takes back the tickets that no longer hold. Tickets for what it
freed leave with the next advance.
"""

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
from batchq.actions.window import add_window, remove_window
from batchq.store.find import find_group, find_job, find_run, find_server, find_task

__all__ = [
    "Change",
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
