"""A worker's connection to its broker: how long an answer may take, and what goes on while there is none.

A broker that is away, hangs behind a living connection, or refuses what it is asked, is one and the same outage here:
the connection is given up, what runs in the worker goes on, and a new one is made once the broker answers again.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from celery.utils.threads import bound_open_broker_sockets
from celery.worker import state
from kombu import Connection, Exchange, Producer
from kombu.exceptions import InconsistencyError
from kombu.transport import pyamqp
from redis.exceptions import NoPermissionError, ResponseError

from batchq.server import celery_gaps

if TYPE_CHECKING:
    from batchq.server.step import BatchServer

logger = logging.getLogger(__name__)

# An answer of the broker is waited for so long inside the loop, in which meanwhile nothing else happens.
ANSWER_SECONDS = 1.0
# Where the loop does not stand still, a connection may take so long: a TLS handshake over a slow line.
CONNECT_SECONDS = 4.0
# A silent connection is noticed after twice this, by both sides: RabbitMQ keeps our queues locked until then.
HEARTBEAT_SECONDS = 3
# A connection that did not last so long was refused something: the next one is tried later, and later.
SHORT_SECONDS = 5.0
MOST_PAUSE_SECONDS = 3.0
# Closing a connection that was given up may take so long: it is broken, and nothing it says matters.
BROKEN_SECONDS = 0.01
STEP_SECONDS = 0.1
# Celery's settings by which a connection that breaks would end the worker, or the tasks that run in it.
HARMFUL: dict[str, Any] = {
    "broker_connection_retry": True,
    "broker_connection_retry_on_startup": True,
    "broker_connection_max_retries": None,
    "broker_channel_error_retry": True,
    "worker_cancel_long_running_tasks_on_connection_loss": False,
    "worker_enable_prefetch_count_reduction": False,
}


def hold_out(app: Any, name: str) -> None:
    """Switch off, in this process, the app's settings that would turn a broker's outage into harm; says which."""
    changed = []
    for setting, ours in HARMFUL.items():
        theirs = app.conf[setting]
        if theirs != ours and _was_set(app, setting):
            changed.append(f"{setting}={theirs!r}")
        app.conf[setting] = ours
    if changed:
        said = ", ".join(changed)
        logger.warning("For %s these do not hold: %s. It waits for its broker, and ends no task meanwhile.", name, said)


def _was_set(app: Any, setting: str) -> bool:
    """Whether the project says so itself: Celery's own default is nothing to be told of."""
    return any(setting in given for given in app.conf.maps[:-1])


def bear(consumer: Any) -> Line:
    """Let the consumer of a worker of ours outlive whatever its broker does; for its whole life."""
    consumer.amqheartbeat = HEARTBEAT_SECONDS
    # The worker's own events go to batchq's broker; what operations send goes to the app's.
    consumer.connection_for_write = partial(consumer.connection_for_write, consumer.app.batchq.settings.broker_url)
    # What a broker refuses is told as an error of the channel, which would end the worker.
    consumer.connection_errors = (*consumer.connection_errors, *consumer.channel_errors)
    if consumer.hub is not None and consumer.controller.batch_server is None:
        consumer.hub.reset = partial(_emptied, consumer.hub.reset)
    line = consumer.line = Line(consumer)
    consumer.ensure_connected = line.connected
    consumer.on_connection_error_before_connected = line.broke
    consumer.on_connection_error_after_connected = line.broke
    return line


class Line:
    """The consumer's line to the broker, from one connection to the next."""

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer
        self._works_since = 0.0
        self._short = 0
        self._attempt = 0
        self._announced = False
        self._gives_up = False

    @property
    def _server(self) -> BatchServer | None:
        server: BatchServer | None = self._consumer.controller.batch_server
        return server

    # --- a connection is made -------------------------------------------------------------------------------

    def connected(self, connection: Any) -> Any:
        """The connection, once the broker answers, however long that takes; meanwhile what runs here goes on.

        Celery alone would wait longer and longer, up to 30 s, see to nothing, and give up after the hundredth time.
        """
        consumer = self._consumer
        if consumer.hub is not None:
            _drop_lost(consumer.hub)
        again, self._attempt = self._attempt != consumer.restart_count, consumer.restart_count
        if again:
            self._pause()
        if again or not self._tried(connection):
            self._wait_for(connection)
        # Else Celery takes the time limits of what started meanwhile for the connection's, and ends them with it.
        if consumer.hub is not None:
            consumer.timer_entries_before_start = celery_gaps.timers(consumer.hub)
        consumer.first_connection_attempt = self._gives_up = False
        return connection

    def _tried(self, connection: Any, seconds: float = ANSWER_SECONDS) -> bool:
        """Whether the connection could be made within about so many seconds."""
        try:
            opened(connection, connect=seconds)
        except Exception as error:
            self._say(error)
            return False
        return True

    def _wait_for(self, connection: Any) -> None:
        while True:
            error = self._asked(connection)
            # It answers: what takes long now is a line that is slow.
            if error is None and self._tried(connection, CONNECT_SECONDS):
                return
            if error is not None:
                self._say(error)
            self._attend(STEP_SECONDS)

    def _asked(self, connection: Any) -> Exception | None:
        """Why the broker does not work, or None. A thread asks, so that the loop goes on meanwhile."""
        answer: list[Exception | None] = []
        asks = threading.Thread(target=lambda: answer.append(refusal(connection)), name="batchq-broker", daemon=True)
        asks.start()
        asks.join(STEP_SECONDS / 2)
        while asks.is_alive():
            self._attend(STEP_SECONDS)
        return answer[0]

    def _pause(self) -> None:
        """Come back later and later to a broker that refuses again and again."""
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
        """Tell of an outage once, from its begin to its end."""
        if not self._announced:
            reason = str(error).rpartition(" caused error: ")[2]  # what redis-py says of a pipeline before it
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
        for channel in getattr(self._consumer.connection.transport, "channels", None) or ():
            if refresh := getattr(channel, "maybe_refresh_binding_expiry", None):
                channel.maybe_refresh_binding_expiry = partial(self._refresh, refresh)

    def _refresh(self, refresh: Callable[[], object]) -> None:
        """Write what Redis is to keep once a second; kombu would tell of each refusal, and go on as if it were well."""
        try:
            refresh()
        except ResponseError as error:
            self.lost(error)

    def _set_away(self, away: bool) -> None:
        """Let the server keep its tickets as long as nobody takes them."""
        if self._server is not None and self._server.ledger is not None:
            self._server.ledger.broker_away = away

    # --- and given up ---------------------------------------------------------------------------------------

    def lost(self, error: object) -> None:
        """Give the connection up: it left a question unanswered, and the next one would wait as long."""
        consumer = self._consumer
        if self._gives_up or consumer.connection is None or consumer.hub is None:
            return
        self._gives_up = True
        # By a timer: kombu drops all callbacks that were queued beside one that raises.
        consumer.hub.call_later(0, _raise, error)

    def acknowledge(self, message: Any) -> None:
        """Tell the broker that a message is done with; one from an old connection cannot be, and that is fine."""
        if self._gives_up:
            return
        try:
            message.ack()
        except Exception as error:  # it fails in many ways, none of which matters: SQL has the truth
            logger.debug("a message stays unacknowledged", exc_info=True)
            if getattr(getattr(message.channel, "connection", None), "client", None) is self._consumer.connection:
                self.lost(error)

    def broke(self, error: BaseException) -> None:
        """Take a connection down that broke; Celery would wait for its last words, and say so each time."""
        consumer = self._consumer
        self._say(error)
        dispatcher = consumer.event_dispatcher
        if dispatcher is not None:
            dispatcher.enabled = False  # each event would try the broker once more
            discard(dispatcher.connection)
        discard(consumer.connection)
        consumer.connection = None

    def watch(self) -> None:
        """Notice when an event, or an answer to `celery inspect`, cannot be sent on the new connection."""
        self._consumer.hub.call_later(0, self._works)
        dispatcher = self._consumer.event_dispatcher
        if dispatcher is not None:
            dispatcher._publish = partial(self._publish_event, dispatcher, dispatcher._publish)
        for step in self._consumer.steps:
            if box := getattr(step, "box", None):
                box.node.reply = partial(self._reply, box.node)

    def _publish_event(self, dispatcher: Any, publish: Callable[..., object], *args: Any, **options: Any) -> None:
        """Send an event once: Celery would try a heartbeat for ever, and say nothing of any other that fails."""
        if self._gives_up:
            return
        before = len(dispatcher._outbound_buffer)
        publish(*args, **options | {"retry": False})
        if len(dispatcher._outbound_buffer) > before:
            self.lost("it does not take events")

    def _reply(self, node: Any, data: Any, exchange: str, routing_key: str, ticket: str, **_: Any) -> None:
        """Answer on the consumer's own connection: Celery's pool has one without a bound, and tries for ever."""
        facts = {"ticket": ticket, "clock": node.mailbox.clock.forward()}
        way = Exchange(exchange, exchange_type="direct", delivery_mode="transient", durable=False)
        try:
            producer = Producer(node.channel, auto_declare=False)
            producer.publish(
                data,
                exchange=exchange,
                routing_key=routing_key,
                declare=[way],
                headers=facts,
                serializer=node.mailbox.serializer,
            )
        except InconsistencyError:  # whoever asked has gone
            return
        except Exception as error:
            self.lost(error)

    def hurry(self) -> None:
        """Let nobody wait long for a connection that is about to be closed, in case the broker hangs."""
        consumer = self._consumer
        for connection in (consumer.connection, getattr(consumer.event_dispatcher, "connection", None)):
            bound_open_broker_sockets(connection, ANSWER_SECONDS / 2)


def opened(connection: Any, *, answer: float = ANSWER_SECONDS, connect: float = ANSWER_SECONDS) -> Any:
    """The connection, made now or not at all; no answer will be waited for longer than so many seconds."""
    _bound(connection, answer, connect)
    try:
        connection.ensure_connection(max_retries=1, interval_start=0, timeout=connect)
        if connection.transport.driver_type == "amqp":
            # amqp's read_timeout is the kernel's, after which it simply reads on.
            connection.connection.transport.sock.settimeout(answer)
    except BaseException:
        discard(connection)
        raise
    return connection


def _bound(connection: Any, answer: float, connect: float) -> None:
    """Set its time-outs, unless the project's own are shorter."""
    options = dict(connection.transport_options or {})
    if connection.transport.driver_type == "redis":
        for name, seconds in (("socket_timeout", answer), ("socket_connect_timeout", connect)):
            options[name] = min(options.get(name) or seconds, seconds)
        options["health_check_interval"] = HEARTBEAT_SECONDS
        options["retry_on_timeout"] = False
        connection.transport_options = options
    else:
        connection.connect_timeout = min(connection.connect_timeout or connect, connect)


def refusal(connection: Any) -> Exception | None:
    """Why this broker does not work at this moment, asked on a connection of its own; None if it does."""
    probe: Connection = connection.clone()
    try:
        opened(probe, answer=CONNECT_SECONDS, connect=CONNECT_SECONDS)
        if probe.transport.driver_type == "redis":
            _write(probe)
        return None
    except Exception as error:
        return error
    finally:
        discard(probe)


def _write(probe: Connection) -> None:
    """Have Redis take something: as a replica, or short of memory or disk, it answers and does nothing."""
    with contextlib.suppress(NoPermissionError):  # a user who may use our queues alone may work
        probe.channel().client.set("batchq.probe", "", ex=60)


def discard(connection: Any) -> None:
    """Close a connection without waiting for anybody."""
    if connection is None:
        return
    bound_open_broker_sockets(connection, BROKEN_SECONDS)
    with contextlib.suppress(Exception):
        # To collect a connection to Redis would set a time-out for every socket that this process opens meanwhile.
        (connection.collect if hasattr(connection.transport, "_collect") else connection.close)()


def _raise(reason: object) -> None:
    raise ConnectionError(str(reason))


def _emptied(reset: Callable[[], object]) -> None:
    """Empty a coordinator's loop; callbacks of the lost connection may fail there, which does not matter."""
    try:
        reset()
    except Exception:
        logger.debug("emptying the loop", exc_info=True)


def _drop_lost(hub: Any) -> None:
    """Take a connection to RabbitMQ that is gone out of the loop.

    Celery leaves one there that was lost before the loop began; it would fail at every turn, and nothing else be heard.
    """
    for number, entry in list(hub.readers.items()):
        if entry and isinstance(getattr(entry[0], "__self__", None), pyamqp.Transport) and not entry[1][0].connected:
            hub.remove(number)
