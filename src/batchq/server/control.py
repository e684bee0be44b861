"""Remote control: commands that a worker of ours obeys. Nobody signs them, so anybody at the broker can send them."""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from functools import partial
from typing import TypeGuard

import celery
import kombu
from celery.app.defaults import DEFAULTS
from celery.app.utils import HIDDEN_SETTINGS
from celery.platforms import signals
from celery.utils.functional import maybe_list
from celery.worker import control as celerys
from celery.worker import state as workers
from celery.worker.consumer.control import Control

from batchq.config import Settings
from batchq.errors import Action, Advice
from batchq.server.celery_types.broker import Message
from batchq.server.celery_types.control import Box, Handler, State
from batchq.server.celery_types.worker import Consumer
from batchq.server.execution import Execution
from batchq.server.intake import count_refused, refuse

LOOK = "batchq_look"
# Celery's commands that only tell something, with the arguments that do no harm. Flower needs `enable_events`.
INSPECTION: Mapping[str, tuple[str, ...]] = {
    "ping": (),
    "clock": (),
    "stats": (),
    "active": ("safe",),
    "reserved": (),
    "scheduled": (),
    "revoked": (),
    "registered": (),
    "active_queues": (),
    "query_task": ("ids",),
    "hello": ("from_node",),
    "heartbeat": (),
    "enable_events": (),
}
QUEUES = Advice("the queues of a batch server follow its groups: use {}", Action.SET_GROUPS, ("NAME", "GROUP"))
POOL = Advice("the pool of a batch server follows its threads and windows: use {}", Action.SET_THREADS, ("NAME", "N"))
TICKET = Advice("this is a ticket, whose task would be offered again; {} cancels what has not started", Action.CANCEL)
# Celery's commands that would change what is decided in SQL or by the job, with the answer that says so.
DECIDED_ELSEWHERE: Mapping[str, Advice | str] = {
    "add_consumer": QUEUES,
    "cancel_consumer": QUEUES,
    "pool_grow": POOL,
    "pool_shrink": POOL,
    "autoscale": POOL,
    "pool_restart": "to load new code, stop the batch server with SIGTERM and start it again",
    "rate_limit": "rate limits do not hold for operations of a batch server",
    "time_limit": "the time limits of an operation are those of its job and of its task in the app",
}
COORDINATES = "a coordinator listens to its own queue, and runs no task of the app"
# The parts of a broker's address that hold no password.
ADDRESS = ("hostname", "port", "transport", "virtual_host", "ssl")
NAME_CHARS = 255
# More different commands than these would only fill the log.
MOST_TOLD = 100

logger = logging.getLogger(__name__)


def govern(consumer: Consumer, settings: Settings) -> None:
    """Let the consumer obey the commands that the settings allow, and survive any message of remote control."""
    for step in consumer.blueprint.order:
        if isinstance(step, Control):
            box = step.box
            box.node.handlers = _handlers(consumer, settings.obeys)
            obey = box.on_message if settings.obeys == "all" else Clerk(box, consumer).answer
            box.on_message = _only_commands(obey, consumer)


def _only_commands(
    obey: Callable[[dict[str, object], Message], object], consumer: Consumer
) -> Callable[[object, Message], object]:
    def on_message(body: object, message: Message) -> None:
        if isinstance(body, dict) and isinstance(body.get("method"), str):
            obey(body, message)
        else:
            refuse(message, consumer)

    return on_message


def _handlers(consumer: Consumer, obeys: str) -> dict[str, Handler]:
    """The commands that are obeyed, by name; Celery's own, even if the host put others in their place."""
    if obeys == "off":
        return {}
    look = {LOOK: lambda state, **_: _look(consumer)}
    if obeys == "all":
        return {**celerys.Panel.data, **_in_place_of_celerys(consumer), **look}
    own = {name: handler for name, handler in celerys.Panel.data.items() if handler.__module__ == celerys.__name__}
    inspection = {name: own[name] for name in INSPECTION if name in own}
    return {**inspection, "stats": _stats, "conf": _conf, "report": _report, **look}


def _look(consumer: Consumer) -> dict[str, str]:
    """Have the server look into SQL now; the command itself tells it nothing."""
    server = getattr(consumer.controller, "batch_server", None)
    if server is not None:
        server.watch.look()
    return {"ok": "looks into SQL"}


def _stats(state: State) -> dict[str, object]:
    """Celery's statistics, with no more of the broker than its address: its options may hold passwords."""
    stats = state.consumer.controller.stats()
    broker: Mapping[str, object] = stats.get("broker", {})
    said = {name: broker.get(name) for name in ADDRESS}
    return stats | {"broker": {name: said[name] for name in ADDRESS if "@" not in str(said[name])}}


def _conf(state: State) -> dict[str, object]:
    """Celery's own settings that are numbers or switches: in any other there may be a password."""
    said = {name: state.app.conf.get(name) for name in sorted(DEFAULTS) if not HIDDEN_SETTINGS.search(name)}
    return {name: value for name, value in said.items() if isinstance(value, bool | int | float)}


def _report(state: State) -> dict[str, str]:
    """The versions, without the settings that Celery adds."""
    return {"ok": f"celery:{celery.__version__} kombu:{kombu.__version__} py:{platform.python_version()}"}


# --- BATCHQ_REMOTE_CONTROL=all ------------------------------------------------------------------------------


def _in_place_of_celerys(consumer: Consumer) -> dict[str, Handler]:
    """Our own answers to commands by which Celery would change what SQL decides, or end an attempt unaccounted for."""
    serves = getattr(consumer.controller, "batch_server", None) is not None
    refusals = {
        name: partial(_decided_elsewhere, consumer, name, reason if serves else COORDINATES)
        for name, reason in DECIDED_ELSEWHERE.items()
    }
    return {**refusals, "revoke": _revoke, "terminate": _terminate}


def _decided_elsewhere(
    consumer: Consumer, method: str, reason: Advice | str, state: State, **_: object
) -> dict[str, str]:
    said = reason.told() if isinstance(reason, Advice) else reason
    logger.warning("%s by remote control is not done: %s", method, said)
    return {"error": f"refused: {said}"}


def _terminate(state: State, signal: str, task_id: object, **_: object) -> dict[str, str]:
    return _revoke(state, task_id, terminate=True, signal=signal)


def _revoke(
    state: State, task_id: object, terminate: bool = False, signal: str | int | None = None, **_: object
) -> dict[str, str]:
    """Abort the attempts of these ids that execute here, if told to terminate them; else say that they go on.

    An abort is marked in SQL first, as by `batchq task abort` (rule 32), so no other signal can be chosen. A ticket
    that waits here is refused. Any other id is remembered for the host's own workers, which ask all workers for such
    ids when they start. Those also write the host's results: here a result store that is away would stop the loop.
    """
    ids = set(maybe_list(task_id) or ())
    attempts = [each for id_ in ids if isinstance(each := workers.requests.get(id_), Execution)]
    server = getattr(state.consumer.controller, "batch_server", None)
    waiting = [id_ for id_ in ids if server is not None and server.ledger.waits(id_)]
    workers.revoked.update(ids.difference(waiting, (each.id for each in attempts)))
    if waiting:
        return {"error": f"refused: {TICKET.told()}"}
    if not attempts or server is None:
        return {"ok": "no attempt of this id executes here"}
    try:
        signals.signum(signal or "TERM")
    except (AttributeError, TypeError):
        return {"error": f"there is no signal {str(signal)[:NAME_CHARS]!r}"}
    refusals = {each: each.not_aborted(terminate) for each in attempts}
    for attempt, refusal in refusals.items():
        logger.warning("remote control: %s", refusal or f"{attempt} is to be aborted")
        if not refusal:
            server.aborts.ask(attempt.row.id, attempt.id)
    server.watch.look()
    if any(refusals.values()):
        return {"error": "; ".join(filter(None, refusals.values()))}
    return {"ok": f"is being aborted: {', '.join(map(str, attempts))}"}


# --- inspection alone ---------------------------------------------------------------------------------------


class Clerk:
    """Answers commands to one worker that obeys inspections only."""

    def __init__(self, box: Box, consumer: Consumer) -> None:
        self._box = box
        self._consumer = consumer
        self._told: set[str] = set()

    def answer(self, body: dict[str, object], message: Message) -> None:
        """Obey a command to this worker if it is an inspection, and refuse it otherwise."""
        if not self._is_for_us(body):
            return
        method, arguments = body["method"], body.get("arguments")
        assert isinstance(method, str)
        handler = self._box.node.handlers.get(method)
        if handler is None:
            self._tell_refusal(method)
            reply: object = {
                "error": f"refused: {method[:NAME_CHARS]!r} is more than BATCHQ_REMOTE_CONTROL allows here"
            }
        else:
            given = arguments if isinstance(arguments, dict) else {}
            reply = self._done(handler, {name: given[name] for name in INSPECTION.get(method, ()) if name in given})
        self._reply(reply, body.get("reply_to"), body.get("ticket"))

    def _is_for_us(self, body: dict[str, object]) -> bool:
        """Whether a command is for this worker: by its name, by a glob pattern, or for all.

        A regular expression never counts: some take longer to compare than anybody lives.
        """
        to, pattern, matcher = body.get("destination"), body.get("pattern"), body.get("matcher")
        if to:
            return isinstance(to, list) and self._box.hostname in to
        if pattern and matcher:
            return matcher == "glob" and _is_short(pattern) and fnmatchcase(self._box.hostname, pattern)
        return True

    def _tell_refusal(self, method: str) -> None:
        count_refused(self._consumer)
        if len(self._told) < MOST_TOLD and method not in self._told:
            self._told.add(method)
            logger.warning("refused remote control: %r", method[:NAME_CHARS])

    def _done(self, handler: Handler, arguments: Mapping[str, object]) -> object:
        try:
            return handler(self._box.node.state, **arguments)
        except Exception as error:
            logger.debug("remote control failed", exc_info=True)
            return {"error": f"{type(error).__name__}: {error}"}

    def _reply(self, reply: object, to: object, ticket: object) -> None:
        """Answer by Celery's exchange for answers, and no other: a forged command could make it write anywhere."""
        node = self._box.node
        exchange = node.mailbox.reply_exchange.name
        if not isinstance(to, dict) or to.get("exchange") != exchange:
            return
        if not (_is_short(to.get("routing_key")) and _is_short(ticket)):
            return
        try:
            node.reply({node.hostname: reply}, exchange=exchange, routing_key=to["routing_key"], ticket=ticket)
        except Exception as error:  # the channel may be broken: a new one, as Celery does after any error
            logger.warning("no answer to remote control: %s: %s", type(error).__name__, error)
            self._box.reset()


def _is_short(text: object) -> TypeGuard[str]:
    return isinstance(text, str) and len(text.encode(errors="replace")) <= NAME_CHARS
