"""Every fault there is, its row in the table of what each costs, and which of them the short form plays."""

from __future__ import annotations

from drills.chaos.faults import Surgeon
from drills.chaos.harm import poison, spoil, spoil_in_every_way
from drills.chaos.refusal import refuse, refuse_in_every_way
from drills.chaos.silence import (
    cut_network,
    hang_broker,
    hang_database,
    silence_broker,
    silence_database,
    stop_broker,
    stop_database,
)

# Each kind with its words in docs/guarantees.md, and the limit that reliability asks for (p99, seconds); without a
# limit it has no row there.
ROWS: dict[str, tuple[str, float | None]] = {
    "child killed": ("a task's process killed: outcome in SQL", 5),
    "child spoiled": ("a task's process spoiled by its operation: those that come next are through", 5),
    "poisoned report": ("an outcome that the database refuses: the others of its batch in SQL", 1),
    "server killed, started again": ("a server killed, started again by its name", 5),
    "server lost": ("a server killed for good: its tasks are *lost*, others go on", 35),
    "coordinator killed": ("the coordinator killed: another one ticks", 5),
    "broker restarted empty": ("the broker restarted empty", 15),
    "broker flushed": ("the broker flushed", 15),
    "queue deleted": ("a queue deleted", 15),
    "broker silent": ("the broker silent for 5 to 60 s, after that", 15),
    "broker's old connections silent": ("the broker's connections silent for good, new ones work", 15),
    "broker refuses": ("the broker refuses, after that", 15),
    "network cut": ("a server cut off from the network for 5 to 30 s, after that", 15),
    "PostgreSQL restarted, immediate": ("PostgreSQL restarted at once", 10),
    "backends terminated": ("PostgreSQL's sessions ended", 10),
    "database silent": ("PostgreSQL silent for 5 to 30 s, after that", 10),
    "database's old connections silent": ("PostgreSQL's connections silent for good, new ones work", 10),
    "lock held 10 s": ("a lock held for 10 s, after that", 10),
    "clock set": ("the clock set by up to a day: the next tick", 2),
    "disk full": ("the disk full, after there is room again", 10),
    "server stopped": ("", None),
    "coordinator stopped": ("", None),
    "child stopped": ("", None),
}
SHORT = (
    Surgeon.kill_child,
    Surgeon.flush_broker,
    Surgeon.stop_child,
    poison,
    Surgeon.kill_coordinator,
    Surgeon.jump,
    Surgeon.jump,
    spoil_in_every_way,
    Surgeon.stop_server,
    Surgeon.empty_broker,
    silence_broker,
    Surgeon.restart_database,
    silence_database,
    Surgeon.end_backends,
    Surgeon.stop_coordinator,
    Surgeon.delete_queue,
    refuse_in_every_way,
    Surgeon.kill_server,
    stop_broker,
    Surgeon.fill_disk,
    cut_network,
    Surgeon.jump_a_day,
    Surgeon.jump,
    hang_broker,
    Surgeon.lock_database,
    stop_database,
    hang_database,
    Surgeon.stop_server_for_long,
    Surgeon.lose_server,
)
# The same in other words, for those who play each of them often.
ONCE = {spoil_in_every_way: spoil, refuse_in_every_way: refuse}
_TWICE = (Surgeon.stop_server_for_long, Surgeon.jump_a_day)
ALL = tuple(dict.fromkeys(ONCE.get(act, act) for act in SHORT if act not in _TWICE))
