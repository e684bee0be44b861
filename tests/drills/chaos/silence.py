"""Peers that say nothing: stopped, behind a door that carries nothing, or at the end of a link that is cut.

Meanwhile what runs ends, its outcome is stored, and its time limit is kept, as far as the database can be reached.
"""

from __future__ import annotations

import time
from contextlib import suppress

import psutil

from batchq import Job
from drills.chaos.faults import Blow, Surgeon, resume
from support.site import BROKER

# A broker may be silent for a minute, a database for half of one, and a link cut for as long as that.
LEAST, BROKER_MOST, DATABASE_MOST, LINK_MOST = 5.0, 60.0, 30.0, 30.0
LIMIT, TOO_LONG, BEGIN_SECONDS = 2.0, 90.0, 10.0
STORED = """SELECT attempt.error FROM batchq_attempt attempt JOIN batchq_task ON id = task_id
            WHERE run_id = :run AND name = :task AND attempt.attempt = :attempt"""


# --- the broker ---------------------------------------------------------------------------------------------


def stop_broker(surgeon: Surgeon) -> Blow | None:
    """With SIGSTOP."""
    if not surgeon.broker_stands:
        return None
    processes = [psutil.Process(surgeon.site.processes[BROKER].pid)]
    owed = _owed(surgeon)
    for process in processes:
        process.suspend()
    seconds = surgeon.seconds(LEAST, BROKER_MOST)
    surgeon.site.fault("broker stopped", seconds)
    return _meanwhile(
        surgeon, surgeon.for_a_while("broker silent", "stopped, ", seconds, lambda: resume(processes)), owed
    )


def hang_broker(surgeon: Surgeon) -> Blow | None:
    """Behind doors that carry nothing, old connections and new ones."""
    doors = surgeon.site.broker_doors
    owed = _owed(surgeon)
    doors.hang()
    seconds = surgeon.seconds(LEAST, BROKER_MOST)
    surgeon.site.fault("broker hung", seconds)
    return _meanwhile(surgeon, surgeon.for_a_while("broker silent", "doors shut, ", seconds, doors.resume), owed)


def silence_broker(surgeon: Surgeon) -> Blow | None:
    """All connections that there are, for good; new ones work."""
    doors = surgeon.site.broker_doors
    number = doors.connections
    doors.silence()
    at = time.monotonic()
    surgeon.site.fault("broker's old connections silent")
    return Blow("broker's old connections silent", f"{number} of them", at, surgeon.hears(at), calm=True)


def _owed(surgeon: Surgeon) -> list[tuple[int, str, int]]:
    """Run, task and attempt of all that runs now, with one that has a time limit, if no other fault is at work."""
    if not surgeon.alone:
        return []
    job = Job("LIMIT")
    job.task("too long", "ledger.work", kwargs={"seconds": TOO_LONG}, time_limit=LIMIT)
    run, started = surgeon.site.submit(job), surgeon.site.started
    deadline = time.monotonic() + BEGIN_SECONDS
    while not any(key[0] == run for key in started.running) and time.monotonic() < deadline:
        surgeon.attend()
        time.sleep(0.02)
    return list(started.running)


def _meanwhile(surgeon: Surgeon, blow: Blow, owed: list[tuple[int, str, int]]) -> Blow:
    """Have it said what of what is owed was not stored before the end of the silence."""
    left = set(owed)

    def said() -> str:
        for run, task, attempt in list(left):
            if surgeon.site.rows(STORED, run=run, task=task, attempt=attempt):
                left.discard((run, task, attempt))
        return f"{len(left)} of {len(owed)} outcomes not stored meanwhile: {sorted(left)[:3]}" if left else ""

    if owed:
        blow.meanwhile = said
    return blow


# --- the database -------------------------------------------------------------------------------------------


def stop_database(surgeon: Surgeon) -> Blow | None:
    """All processes of it, with SIGSTOP."""
    if surgeon.site.postgres is None:
        return None
    processes = surgeon.site.postgres.processes()
    for process in processes:
        with suppress(psutil.Error):
            process.suspend()
    seconds = surgeon.seconds(LEAST, DATABASE_MOST)
    surgeon.site.fault("database stopped", seconds)
    return surgeon.for_a_while("database silent", "stopped, ", seconds, lambda: resume(processes))


def hang_database(surgeon: Surgeon) -> Blow | None:
    """Behind doors that carry nothing, old connections and new ones."""
    if (doors := surgeon.site.database_doors) is None:
        return None
    doors.hang()
    seconds = surgeon.seconds(LEAST, DATABASE_MOST)
    # Who reaches it past the doors sees the others as silent.
    surgeon.site.fault("database hung", seconds, surgeon.site.behind_doors if _is_long(surgeon, seconds) else [])
    return surgeon.for_a_while("database silent", "doors shut, ", seconds, doors.resume)


def silence_database(surgeon: Surgeon) -> Blow | None:
    """All connections that there are, for good; new ones work."""
    if (doors := surgeon.site.database_doors) is None:
        return None
    number = doors.connections
    doors.silence()
    at = time.monotonic()
    surgeon.site.fault("database's old connections silent")
    return Blow("database's old connections silent", f"{number} of them", at, surgeon.hears(at), calm=True)


# --- the network --------------------------------------------------------------------------------------------


def cut_network(surgeon: Surgeon) -> Blow | None:
    """The link of the server that has a network of its own."""
    site = surgeon.site
    if not site.network.made:
        return None
    site.network.cut()
    seconds = surgeon.seconds(LEAST, LINK_MOST)
    site.fault("network cut", seconds, [site.outside] if _is_long(surgeon, seconds) else [])
    return surgeon.for_a_while("network cut", f"of {site.outside}, ", seconds, site.network.mend)


def _is_long(surgeon: Surgeon, seconds: float) -> bool:
    """Whether a server that is cut off for so long may count as lost, if others hold it up before or after."""
    return seconds > surgeon.site.lost_seconds / 4
