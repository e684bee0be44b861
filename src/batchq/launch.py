"""Celery's worker, run in this process as a batch server or a coordinator."""

from __future__ import annotations

import os
import re

import click
from celery import Celery
from kombu import Queue

QUIET = ("--without-gossip", "--without-mingle")


def server(app: Celery, name: str, *, pool: str, loglevel: str, events: bool) -> int:
    """Run a batch server until it is told to stop; returns the exit code."""
    node = re.sub(r"[^\w.-]", "_", name)
    options = ["--batch-server", name, "-n", f"{node}@%h", "-P", pool, *(["-E"] if events else [])]
    return _celery(app, "worker", *options, "-l", loglevel, *QUIET)


def coordinator(app: Celery, queue: Queue, *, loglevel: str) -> int:
    """Run a coordinator, which reads this queue, until it is told to stop; returns the exit code."""
    # Else Celery puts the host's default exchange in the place of the broker's own, and binds our queue to it.
    app.amqp.queues.default_exchange = None
    app.amqp.queues.add(queue)
    options = ["-B", "--scheduler", "batchq.coordinator:Scheduler", "-P", "solo", "-Q", queue.name]
    return _celery(app, "worker", *options, "-n", f"coordinator-{os.getpid()}@%h", "-l", loglevel, *QUIET)


def _celery(app: Celery, *argv: str) -> int:
    from celery.bin.celery import celery

    for command in celery.commands.values():
        # Celery adds an app's options each time it begins: below `celery -A …` they would be there twice.
        command.params[:] = [each for each in command.params if not _is_added(app, each)]
    # As Celery.start() does it, which forgets the exit code.
    celery.params[0].default = app
    try:
        return int(celery.main(args=list(argv), standalone_mode=False) or 0)
    finally:
        celery.params[0].default = None


def _is_added(app: Celery, option: click.Parameter) -> bool:
    """Whether somebody added this option to Celery's commands for this app."""
    return any(option in added for added in app.user_options.values())
