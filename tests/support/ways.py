"""Ways in which the attempt of the task A ends, of a run that is played."""

from __future__ import annotations

from collections.abc import Callable

from batchq import engine
from batchq.core.ends import End
from batchq.engine import Report
from batchq.store import server as servers
from play import Play


def reported(end: End) -> Callable[[Play], object]:
    """Let the server of A report this end."""

    def act(batch: Play) -> object:
        name, row = batch.at("A")
        return batch.serve(name, [Report(row.id, row.token, end)])

    return act


def missing(batch: Play) -> object:
    """The living server no longer has the attempt."""
    name, row = batch.at("A")
    life = batch.workers[name].life
    return batch.database.run(lambda tx: engine.recover_missing(tx, life, {row.token}, tx.now()))


def set_aside(batch: Play) -> object:
    """Its server went when the loss could not be stored, so it is ended later."""
    name, row = batch.at("A")
    life = batch.workers[name].life
    assert batch.database.run(lambda tx: servers.stop(tx, life.server, life.epoch))
    return batch.database.run(lambda tx: engine.lose_again(tx, row.id, tx.now()))
