"""The verbs that move work forward: submit, settle, dispatch, claim, finish, recover, hold, cancel, abort.

Each has a module. Each function takes the transaction that it works in, and none sends a message. A caller publishes
the tickets that it gets back after the commit.
"""

from batchq.engine.aborting import abort, aborted
from batchq.engine.advancing import Advance, advance, hand_out
from batchq.engine.canceling import cancel
from batchq.engine.dispatching import dispatch, follow_clock
from batchq.engine.flush import Flush, Life, Offer, Report, Served
from batchq.engine.holding import go_on, hold, move_on, release
from batchq.engine.recovering import (
    STOPPED,
    lose,
    lose_again,
    recover_missing,
    retire,
    stop,
    take_over,
)
from batchq.engine.reopening import Unfinished
from batchq.engine.retrying import Retried, Retry, rehearse, retry
from batchq.engine.serving import serve
from batchq.engine.settling import settle, settle_runs, unsettled
from batchq.engine.sorting import close_lanes, runs_to_sort, sort_now, sort_run
from batchq.engine.submitting import Opened, submit, submit_all
from batchq.engine.ticketing import is_overdue, offer_again, take_back

__all__ = [
    "STOPPED",
    "Advance",
    "Flush",
    "Life",
    "Offer",
    "Opened",
    "Report",
    "Retried",
    "Retry",
    "Served",
    "Unfinished",
    "abort",
    "aborted",
    "advance",
    "cancel",
    "close_lanes",
    "dispatch",
    "follow_clock",
    "go_on",
    "hand_out",
    "hold",
    "is_overdue",
    "lose",
    "lose_again",
    "move_on",
    "offer_again",
    "recover_missing",
    "rehearse",
    "release",
    "retire",
    "retry",
    "runs_to_sort",
    "serve",
    "settle",
    "settle_runs",
    "sort_now",
    "sort_run",
    "stop",
    "submit",
    "submit_all",
    "take_back",
    "take_over",
    "unsettled",
]
