"""Remote control: what a worker of ours does for whoever reaches the broker, as nobody signs what is asked there."""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any

import celery
import kombu
from celery.app.defaults import DEFAULTS
from celery.app.utils import HIDDEN_SETTINGS
from celery.worker import control as celerys
from celery.worker.consumer.control import Control

from batchq.config import Settings
from batchq.server.request import count_refused, refuse

LOOK = "batchq_look"
# Celery's commands that only tell something, with the arguments that do no more; Flower asks for events.
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
# What of a broker's address is no secret, and nobody's but its own.
ADDRESS = ("hostname", "port", "transport", "virtual_host", "ssl")
NAME_CHARS = 255
# Enough of them are told of in the log.
MOST_TOLD = 100

logger = logging.getLogger(__name__)

Handler = Callable[..., Any]


def govern(consumer: Any, settings: Settings) -> None:
    """Let the consumer obey what the settings say of remote control, and never fall over what is asked."""
    for step in consumer.blueprint.order:
        if isinstance(step, Control):
            box = step.box
            box.node.handlers = _handlers(consumer, settings.obeys)
            obey = box.on_message if settings.obeys == "all" else Clerk(box, consumer).answer
            box.on_message = _only_commands(obey, consumer)


def _only_commands(obey: Callable[[Any, Any], None], consumer: Any) -> Callable[[Any, Any], None]:
    def on_message(body: Any, message: Any) -> None:
        if isinstance(body, dict) and isinstance(body.get("method"), str):
            obey(body, message)
        else:
            refuse(message, consumer)

    return on_message


def _handlers(consumer: Any, obeys: str) -> dict[str, Handler]:
    """The commands that are obeyed, by name; of Celery's those of its own, not what the host put in their place."""
    if obeys == "off":
        return {}
    look = {LOOK: lambda state, **_: _look(consumer)}
    if obeys == "all":
        return {**celerys.Panel.data, **look}
    own = {name: handler for name, handler in celerys.Panel.data.items() if handler.__module__ == celerys.__name__}
    inspection = {name: own[name] for name in INSPECTION if name in own}
    return {**inspection, "stats": _stats, "conf": _conf, "report": _report, **look}


def _look(consumer: Any) -> dict[str, str]:
    """Have the server read in SQL now what it is to do: a nudge, which says nothing itself."""
    server = getattr(consumer.controller, "batch_server", None)
    if server is not None:
        server.watch.look()
    return {"ok": "looks into SQL"}


def _stats(state: Any) -> dict[str, Any]:
    """Celery's statistics, with no more of the broker than its address: its options may hold passwords."""
    stats: dict[str, Any] = state.consumer.controller.stats()
    said = {name: stats.get("broker", {}).get(name) for name in ADDRESS}
    return stats | {"broker": {name: said[name] for name in ADDRESS if "@" not in str(said[name])}}


def _conf(state: Any) -> dict[str, Any]:
    """Celery's own settings that are numbers or switches: in any other there may be a password."""
    said = {name: state.app.conf.get(name) for name in sorted(DEFAULTS) if not HIDDEN_SETTINGS.search(name)}
    return {name: value for name, value in said.items() if isinstance(value, bool | int | float)}


def _report(state: Any) -> dict[str, str]:
    """The versions, without the settings that Celery adds."""
    return {"ok": f"celery:{celery.__version__} kombu:{kombu.__version__} py:{platform.python_version()}"}


class Clerk:
    """Answers what is asked of one worker, where not everything is obeyed."""

    def __init__(self, box: Any, consumer: Any) -> None:
        self._box = box
        self._consumer = consumer
        self._told: set[str] = set()

    def answer(self, body: dict[str, Any], message: Any) -> None:
        """Do what is asked of this worker, if it is no more than an inspection, and say so if it is more."""
        if not self._is_for_us(body):
            return
        method, arguments = body["method"], body.get("arguments")
        handler = self._box.node.handlers.get(method)
        if handler is None:
            self._tell_refusal(method)
            reply: Any = {"error": f"refused: {method[:NAME_CHARS]!r} is more than BATCHQ_REMOTE_CONTROL allows here"}
        else:
            given = arguments if isinstance(arguments, dict) else {}
            reply = self._done(handler, {name: given[name] for name in INSPECTION.get(method, ()) if name in given})
        self._reply(reply, body.get("reply_to"), body.get("ticket"))

    def _is_for_us(self, body: dict[str, Any]) -> bool:
        """Whether it is asked of this worker by its name, by a pattern, or of all; never by a regular expression.

        One of those can take longer to compare than anybody lives.
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

    def _done(self, handler: Handler, arguments: Mapping[str, Any]) -> Any:
        try:
            return handler(self._box.node.state, **arguments)
        except Exception as error:
            logger.debug("remote control failed", exc_info=True)
            return {"error": f"{type(error).__name__}: {error}"}

    def _reply(self, reply: Any, to: Any, ticket: Any) -> None:
        """Answer who asked by Celery's exchange for answers, and no other: it could be made to write anywhere."""
        node = self._box.node
        exchange = node.mailbox.reply_exchange.name
        if not isinstance(to, dict) or to.get("exchange") != exchange:
            return
        if not (_is_short(to.get("routing_key")) and _is_short(ticket)):
            return
        try:
            node.reply({node.hostname: reply}, exchange=exchange, routing_key=to["routing_key"], ticket=ticket)
        except Exception as error:  # whatever it was, Celery begins anew with the channel
            logger.warning("no answer to remote control: %s: %s", type(error).__name__, error)
            self._box.reset()


def _is_short(text: Any) -> bool:
    return isinstance(text, str) and len(text.encode(errors="replace")) <= NAME_CHARS
