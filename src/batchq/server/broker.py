"""A worker's line to its broker: it outlives every outage, and running tasks go on meanwhile.

A broker may be away, hang behind a living connection, or refuse a request. Each of these is the same outage here: the
connection is given up, and a new one is made once the broker answers again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Protocol

from celery import Celery
from celery.utils.threads import bound_open_broker_sockets
from celery.worker import state
from kombu import Exchange, Producer
from kombu.exceptions import InconsistencyError
from redis.exceptions import ResponseError

from batchq.server import celery_gaps
from batchq.server.celery_types.broker import BrokerConnection
from batchq.server.celery_types.control import Node
from batchq.server.celery_types.worker import Consumer
from batchq.server.connection import ANSWER_SECONDS, CONNECT_SECONDS, HEARTBEAT_SECONDS, discard, opened, refusal
from batchq.server.events import Events
from batchq.server.ledger import Ledger
from batchq.server.surroundings import Bearer

logger = logging.getLogger(__name__)

# A connection was refused something if it did not last this long; the next one is then made later and later.
SHORT_SECONDS = 5.0
MOST_PAUSE_SECONDS = 3.0
STEP_SECONDS = 0.1
# Celery's settings by which a connection that breaks would end the worker, or the tasks that run in it.
HARMFUL: dict[str, object] = {
    "broker_connection_retry": True,
    "broker_connection_retry_on_startup": True,
    "broker_connection_max_retries": None,
    "broker_channel_error_retry": True,
    "worker_cancel_long_running_tasks_on_connection_loss": False,
    "worker_enable_prefetch_count_reduction": False,
}


def hold_out(app: Celery, name: str) -> None:
    """Switch off the app's settings, in this process, that would turn a broker's outage into harm; log which."""
    changed = []
    for setting, ours in HARMFUL.items():
        theirs = app.conf[setting]
        if theirs != ours and _was_set(app, setting):
            changed.append(f"{setting}={theirs!r}")
        app.conf[setting] = ours
    if changed:
        said = ", ".join(changed)
        logger.warning("For %s these do not hold: %s. It waits for its broker, and ends no task meanwhile.", name, said)


def _was_set(app: Celery, setting: str) -> bool:
    """Whether the project sets it itself: a warning of Celery's own default would help nobody."""
    return any(setting in given for given in app.conf.maps[:-1])


def bear(consumer: Consumer) -> Line:
    """Let this worker's consumer outlive every outage of its broker, for its whole life."""
    consumer.amqheartbeat = HEARTBEAT_SECONDS
    # The worker's own events go to batchq's broker. Messages of operations go to the app's.
    consumer.connection_for_write = partial(consumer.connection_for_write, consumer.app.batchq.settings.broker_url)
    # A refusal is an error of the channel, which would end the worker.
    consumer.connection_errors = (*consumer.connection_errors, *consumer.channel_errors)
    if consumer.hub is not None and consumer.controller.batch_server is None:
        consumer.hub.reset = partial(_emptied, consumer.hub.reset)
    line = consumer.line = Line(consumer)
    consumer.ensure_connected = line.connected
    consumer.on_connection_error_before_connected = line.broke
    consumer.on_connection_error_after_connected = line.broke
    return line


class Server(Protocol):
    """The batch server as its line needs it."""

    # None before the server has started.
    ledger: Ledger | None

    def attend(self, seconds: float) -> None:
        """Go on with running tasks for this long."""


class Line:
    """The consumer's line to the broker, from one connection to the next; it `gives_up` one that is lost."""

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer
        self._works_since = 0.0
        self._short = 0
        self._attempt = 0
        self._announced = False
        self.gives_up = False
        self._events: Events | None = None

    @property
    def _server(self) -> Server | None:
        server: Server | None = self._consumer.controller.batch_server
        return server

    # --- a connection is made -------------------------------------------------------------------------------

    def connected(self, connection: BrokerConnection) -> BrokerConnection:
        """The connection, once the broker answers, however long that takes; running tasks go on meanwhile.

        Celery alone would wait up to 30 s at a time, see to nothing, and give up after the hundredth time.
        """
        consumer = self._consumer
        if consumer.hub is not None:
            celery_gaps.drop_lost(consumer.hub)
        restarted, self._attempt = self._attempt != consumer.restart_count, consumer.restart_count
        if restarted:
            self._pause()
        if restarted or not self._tried(connection):
            self._wait_for(connection)
        # Celery ends the connection's timers with it, and would take those of tasks that started meanwhile for these.
        if consumer.hub is not None:
            consumer.timer_entries_before_start = celery_gaps.timers(consumer.hub)
        consumer.first_connection_attempt = self.gives_up = False
        return connection

    def _tried(self, connection: BrokerConnection, seconds: float = ANSWER_SECONDS) -> bool:
        """Whether the connection could be made within about this many seconds."""
        try:
            opened(connection, connect=seconds)
        except Exception as error:
            self._say(error)
            return False
        return True

    def _wait_for(self, connection: BrokerConnection) -> None:
        while True:
            error = self._outage(connection)
            # The broker answers, so the line is slow: the connection gets more time.
            if error is None and self._tried(connection, CONNECT_SECONDS):
                return
            if error is not None:
                self._say(error)
            self._attend(STEP_SECONDS)

    def _outage(self, connection: BrokerConnection) -> Exception | None:
        """Why the broker does not work, or None. A thread finds out, so that the loop goes on meanwhile."""
        answer: list[Exception | None] = []
        asks = threading.Thread(target=lambda: answer.append(refusal(connection)), name="batchq-broker", daemon=True)
        asks.start()
        asks.join(STEP_SECONDS / 2)
        while asks.is_alive():
            self._attend(STEP_SECONDS)
        return answer[0]

    def _pause(self) -> None:
        """Wait longer and longer for a broker that refuses again and again."""
        lasted = time.monotonic() - self._works_since if self._works_since else 0.0
        self._short = self._short + 1 if lasted < SHORT_SECONDS else 0
        self._works_since = 0.0
        if self._short > 1:
            self._attend(min(0.1 * 2**self._short, MOST_PAUSE_SECONDS))

    def _attend(self, seconds: float) -> None:
        state.maybe_shutdown()
        if self._server is not None:
            self._server.attend(seconds)
        else:
            time.sleep(seconds)
        state.maybe_shutdown()

    def _say(self, error: BaseException) -> None:
        """Log an outage once, however often it is met until it ends."""
        if not self._announced:
            reason = str(error).rpartition(" caused error: ")[2]  # redis-py first quotes the whole pipeline
            logger.warning("waiting for the broker %s: %s", self._consumer.conninfo.as_uri(), reason)
        self._announced = True
        self._set_away(True)

    def _works(self) -> None:
        """Note that the loop turns on the new connection, with all queues declared."""
        if self._announced:
            logger.warning("the broker %s answers again", self._consumer.conninfo.as_uri())
        self._announced = False
        self._works_since = time.monotonic()
        self._set_away(False)
        for channel in getattr(getattr(self._consumer.connection, "transport", None), "channels", None) or ():
            if refresh := getattr(channel, "maybe_refresh_binding_expiry", None):
                channel.maybe_refresh_binding_expiry = partial(self._refresh, refresh)

    def _refresh(self, refresh: Callable[[], object]) -> None:
        """Renew the bindings in Redis; kombu would log each refusal, and go on as if all were well."""
        try:
            refresh()
        except ResponseError as error:
            self.lost(error)

    def _set_away(self, away: bool) -> None:
        """Let the server keep its tickets while the broker is away."""
        if self._server is not None and self._server.ledger is not None:
            self._server.ledger.broker_away = away

    # --- and given up ---------------------------------------------------------------------------------------

    def lost(self, error: object) -> None:
        """Give the connection up: it left a request unanswered, and the next request would wait as long."""
        consumer = self._consumer
        if self.gives_up or consumer.connection is None or consumer.hub is None:
            return
        self.gives_up = True
        # By a timer: if a callback raises, kombu drops all others that are queued beside it.
        consumer.hub.call_later(0, _raise, error)

    def acknowledge(self, message: Bearer) -> None:
        """Tell the broker that a message is done with. This fails harmlessly for a message of an old connection."""
        if self.gives_up:
            return
        try:
            message.ack()
        except Exception as error:  # no failure matters: SQL has the truth
            logger.debug("a message stays unacknowledged", exc_info=True)
            channel = getattr(message, "channel", None)
            if getattr(getattr(channel, "connection", None), "client", None) is self._consumer.connection:
                self.lost(error)

    def broke(self, error: BaseException) -> None:
        """Take a broken connection down; Celery would wait for its last words, and log that each time."""
        consumer = self._consumer
        self._say(error)
        dispatcher = consumer.event_dispatcher
        if dispatcher is not None:
            if self._events is not None:
                self._events.keep()
            dispatcher.enabled = False  # each event would try the broker once more
            discard(dispatcher.connection)
        discard(consumer.connection)
        consumer.connection = None

    def watch(self) -> None:
        """Gather the new connection's events; notice when one, or an answer to `celery inspect`, cannot be sent."""
        assert self._consumer.hub is not None
        self._consumer.hub.call_later(0, self._works)
        dispatcher = self._consumer.event_dispatcher
        if dispatcher is not None:
            self._events = Events(dispatcher, self._consumer.hub, self)
        for step in self._consumer.steps:
            if box := getattr(step, "box", None):
                box.node.reply = partial(self._reply, box.node)

    def _reply(self, node: Node, data: object, **to: str) -> None:
        """Answer on the consumer's own connection: the one of Celery's pool has no time-out, and tries for ever."""
        facts = {"ticket": to["ticket"], "clock": node.mailbox.clock.forward()}
        way = Exchange(to["exchange"], exchange_type="direct", delivery_mode="transient", durable=False)
        try:
            producer = Producer(node.channel, auto_declare=False)
            producer.publish(
                data,
                exchange=to["exchange"],
                routing_key=to["routing_key"],
                declare=[way],
                headers=facts,
                serializer=node.mailbox.serializer,
            )
        except InconsistencyError:  # nobody waits for the answer any more
            return
        except Exception as error:
            self.lost(error)

    def hurry(self) -> None:
        """Send the last events, and bound all waits on connections about to be closed, in case the broker hangs."""
        consumer = self._consumer
        for connection in (consumer.connection, getattr(consumer.event_dispatcher, "connection", None)):
            bound_open_broker_sockets(connection, ANSWER_SECONDS / 2)
        if self._events is not None:
            self._events.send()


def _raise(reason: object) -> None:
    raise ConnectionError(str(reason))


def _emptied(reset: Callable[[], object]) -> None:
    """Empty a coordinator's loop; callbacks of the lost connection may fail there without harm."""
    try:
        reset()
    except Exception:
        logger.debug("emptying the loop", exc_info=True)
