"""Commands for the next steps of errors: only the command line says "`batchq …`"."""

from __future__ import annotations

from batchq.errors import Action, BatchqError

# The words after `batchq`, with a placeholder for each argument.
COMMANDS = {
    Action.UPGRADE: "db upgrade",
    Action.START_ENGINE: "dev",
    Action.RUN: "run",
    Action.SUBMIT: "submit {}",
    Action.CANCEL: "runs cancel",
    Action.RELEASE_JOB: "job release {}",
    Action.CHECK: "check",
    Action.LIST_JOBS: "job list",
    Action.LIST_TASKS: "task list {}",
    Action.LIST_GROUPS: "group list",
    Action.LIST_LIMITS: "limit list",
    Action.LIST_SERVERS: "server list",
    Action.LIST_WINDOWS: "server window list {}",
    Action.SET_GROUPS: "server groups set {} {}",
    Action.SET_THREADS: "server set {} --threads {}",
}


def command(action: Action, arguments: tuple[str, ...]) -> str:
    """The command that takes the action, as a person types it."""
    return f"`batchq {COMMANDS[action].format(*arguments)}`"


def told(error: BatchqError) -> str:
    """The error's sentence and its next step, as the command line says them."""
    return error.told(command)
