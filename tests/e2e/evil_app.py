"""An app whose operation says all that a terminal or a log could fall for."""

from __future__ import annotations

import logging

from celery import Celery
from celery.utils.log import get_task_logger

# Clears the screen, rings, turns text around, hides, breaks the line, is C1's CSI, is no character at all.
EVIL = "a\x1b[2Jb\x07\rc\u202ed\u200be\u2028f\x9b31mg\x7f[red]h[/red]"
FORGED = "\n[2026-01-01 00:00:00,000: CRITICAL/MainProcess] forged"

app = Celery("evil", set_as_current=False)


@app.task(name="evil.say", shared=False)
def say(fails: bool = True) -> str:
    """Log it, print it, and raise it or return it."""
    logging.getLogger("evil").warning("logged %s%s", EVIL, FORGED)
    get_task_logger("evil").warning("told %s%s", EVIL, FORGED)
    print(f"printed {EVIL}{FORGED}")
    if fails:
        raise RuntimeError(f"raised {EVIL}{FORGED}")
    return EVIL
