"""The worker's pools: of processes, and of threads (Celery, billiard)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Protocol

from batchq.server.celery_types.loop import Hub

# A message of a child: its kind, and what belongs to that.
Message = tuple[int, tuple[object, ...]]


class Inbox(Protocol):
    """The pipe by which a child of the pool gets its orders."""

    def put(self, order: None) -> None: ...


class Child(Protocol):
    """A process of the prefork pool."""

    pid: int
    dead: bool
    inq: Inbox
    inqW_fd: int  # noqa: N815 (billiard's name)
    outqR_fd: int  # noqa: N815 (billiard's name)
    _popen: object
    _sentinel_poll: int | None
    _controlled_termination: bool
    _job_terminated: bool

    def terminate(self) -> None: ...
    def _is_alive(self) -> bool: ...


class PoolJob(Protocol):
    """An order in the prefork pool, with the child it is being written to and the child chosen for it."""

    _write_to: Child | None
    _scheduled_for: Child | None
    # Its header and its body, and the size of that.
    _payload: tuple[memoryview, memoryview, int]


class Results(Protocol):
    """The reader of what the children of the prefork pool send."""

    handle_event: Callable[[int], object]
    _recv_message: Callable[[Callable[..., object], int, Callable[[Message], object]], Iterator[None]]


class Processes(Protocol):
    """billiard's pool of processes, inside Celery's prefork pool."""

    on_job_process_down: Callable[[PoolJob, int], object]
    process_flush_queues: Callable[[Child], object]
    on_poll_start: Callable[[], object]
    outbound_buffer: Collection[PoolJob]
    _pool: Sequence[Child]
    _processes: int
    _state: int
    _cache: Mapping[int, PoolJob]
    _fileno_to_inq: dict[int, Child]
    _fileno_to_outq: dict[int, Child]
    _all_inqueues: set[int]
    _busy_workers: set[int]
    _active_writes: set[int]
    _result_handler: Results
    _registered_with_event_loop: bool

    def grow(self, number: int) -> None: ...
    def hub_remove(self, fd: int) -> None: ...
    def mark_as_worker_lost(self, job: PoolJob, exitcode: int) -> None: ...
    def _join_exited_workers(self) -> object: ...


class Executor(Protocol):
    """Python's thread pool executor; its size can be changed."""

    _max_workers: int


class Pool(Protocol):
    """A Celery worker's pool, of processes or of threads."""

    limit: int
    executor: Executor
    flush: Callable[[], object] | None
    register_with_event_loop: Callable[[Hub], object]
    _pool: Processes | None

    def apply_async(self, target: Callable[..., object], *, args: tuple[object, ...], **options: object) -> object: ...
    def maintain_pool(self) -> None: ...
    def stop(self) -> None: ...
    def terminate(self) -> None: ...
