"""A Celery worker, and its consumer, which lives from one connection to the next."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping, MutableSequence, Sequence
from typing import Any, Protocol

from celery import Celery

from batchq.server.celery_types.broker import BrokerConnection, Channel, Errors, Message
from batchq.server.celery_types.loop import Hub, Timer
from batchq.server.celery_types.pool import Pool


class Worker(Protocol):
    """A Celery worker; `batch_server` is ours, and each reader declares the parts that it needs."""

    app: Celery
    consumer: Consumer
    hub: Hub
    pool: Pool
    pool_cls: type
    hostname: str
    options: dict[str, object]
    autoscale: object
    quiet: bool
    exitcode: int
    concurrency: int
    min_concurrency: int
    prefetch_multiplier: int
    worker_lost_wait: float
    soft_time_limit: float | None
    time_limit: float | None
    max_tasks_per_child: str | float | None
    max_memory_per_child: str | float | None
    optimization: str | None
    batch_server: Any

    def stats(self) -> dict[str, Any]: ...


class Prefetch(Protocol):
    """How many messages the broker may send before one of them is acknowledged."""

    value: int

    def set(self, value: int) -> object: ...


class TaskConsumer(Protocol):
    """kombu's consumer of the task queues."""

    accept: set[str] | None
    channel: Channel

    def consume(self) -> None: ...
    def cancel(self) -> None: ...


class Dispatcher(Protocol):
    """Celery's sender of events."""

    enabled: bool
    connection: BrokerConnection
    buffer_limit: int
    on_send_buffered: Callable[[], object] | None
    _outbound_buffer: MutableSequence[tuple[object, str]]
    _group_buffer: MutableMapping[str, list[object]]
    _publish: Callable[..., object]

    def flush(self) -> None: ...


class Line(Protocol):
    """Our line to the broker, which the worker's consumer holds."""

    def acknowledge(self, message: Message) -> None: ...


class Blueprint(Protocol):
    """The start order of a consumer's parts."""

    order: Sequence[object]


class Consumer(Protocol):
    """The part of a worker that starts anew with each connection to the broker."""

    app: Celery
    controller: Worker
    blueprint: Blueprint
    steps: Sequence[object]
    hostname: str
    hub: Hub | None
    pool: Pool
    qos: Prefetch
    line: Line
    connection: BrokerConnection | None
    conninfo: BrokerConnection
    event_dispatcher: Dispatcher | None
    task_consumer: TaskConsumer | None
    amqheartbeat: float
    restart_count: int
    first_connection_attempt: bool
    timer_entries_before_start: set[Timer]
    connection_errors: Errors
    channel_errors: Errors
    connect: Callable[[], BrokerConnection]
    connection_for_write: Callable[..., BrokerConnection]
    ensure_connected: Callable[[BrokerConnection], BrokerConnection]
    create_task_handler: Callable[[], Callable[[Message], object]]
    on_decode_error: Callable[[Message, BaseException], object]
    on_connection_error_before_connected: Callable[[BaseException], object]
    on_connection_error_after_connected: Callable[[BaseException], object]

    def add_task_queue(self, queue: str) -> None: ...
    def cancel_task_queue(self, queue: str) -> None: ...
