"""Rehearse jobs: the real engine plays them in memory, in milliseconds, without a process, a broker or a service.

Operations are not executed; `failing` says which tasks fail. Time stands still, and jumps to the next event.
"""

from typing import TYPE_CHECKING

from batchq.lazy import attributes

if TYPE_CHECKING:
    from batchq.testing.cast import Start
    from batchq.testing.clocked import START
    from batchq.testing.played import Played
    from batchq.testing.playing import play, play_all
    from batchq.testing.script import Durations, Failing, Failure, Servers, Source
    from batchq.testing.stage import Stage

__all__ = [
    "START",
    "Durations",
    "Failing",
    "Failure",
    "Played",
    "Servers",
    "Source",
    "Stage",
    "Start",
    "play",
    "play_all",
]

# Imported at first use: the plugin imports this package, and every start of pytest would wait for the engine.
__getattr__ = attributes(
    __name__,
    {
        "START": "batchq.testing.clocked",
        "Durations": "batchq.testing.script",
        "Failing": "batchq.testing.script",
        "Failure": "batchq.testing.script",
        "Played": "batchq.testing.played",
        "Servers": "batchq.testing.script",
        "Source": "batchq.testing.script",
        "Stage": "batchq.testing.stage",
        "Start": "batchq.testing.cast",
        "play": "batchq.testing.playing",
        "play_all": "batchq.testing.playing",
    },
)
