"""Which tasks of the app a job may run: registered ones that the settings allow, and never Celery's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from click.testing import Result

from batchq import BatchQ, Job
from batchq.errors import InvalidInput

Command = Callable[..., Result]
NAMES = ("hr.pay", "secret", "shop.collect", "shop.invoice")


def nothing() -> None:
    pass


def batch(**settings: str) -> BatchQ:
    app = Celery("shop", set_as_current=False, broker="redis://127.0.0.1:1/0")
    for name in NAMES:
        app.task(nothing, name=name, shared=False)
    return BatchQ(app, **settings)


@pytest.mark.parametrize(
    ("patterns", "allowed"),
    [
        ("*", ["hr.pay", "secret", "shop.collect", "shop.invoice"]),
        ("shop.*", ["shop.collect", "shop.invoice"]),
        ("shop.collect, hr.*", ["hr.pay", "shop.collect"]),
        ("SHOP.*", []),
        ("celery.*", []),
        ("", []),
    ],
)
def test_patterns_narrow_what_may_be_run(patterns: str, allowed: list[str]):
    joined = batch(allowed_operations=patterns)
    assert [name for name in joined.operations() if name in NAMES] == allowed
    assert not [name for name in joined.operations() if name.startswith(("celery.", "batchq."))]


def test_patterns_that_are_given_later_hold_from_then_on():
    joined = batch(allowed_operations="shop.*")
    before = [joined.may_run(name) for name in NAMES]
    BatchQ(joined.app, allowed_operations="hr.*")
    assert (before, [joined.may_run(name) for name in NAMES]) == (
        [False, False, True, True],
        [True, False, False, False],
    )


@pytest.mark.parametrize(
    ("operation", "said"),
    [
        ("hr.pay", "J / A: 'hr.pay' may not be run: the settings allow 'shop.*' (BATCHQ_ALLOWED_OPERATIONS)"),
        ("celery.backend_cleanup", "J / A: 'celery.backend_cleanup' may not be run: "),
        ("batchq.run", "J / A: 'batchq.run' may not be run: "),
        ("os.system", "J / A: no task named 'os.system' is registered with the Celery app 'shop'"),
        ("shop.colect", "(closest: 'shop.collect')"),
        ("shell.run", "J / A: shell.run is switched off"),
    ],
)
def test_a_job_that_asks_for_more_is_refused_before_anything_is_stored(operation: str, said: str):
    job = Job("J")
    job.task("A", operation)
    with pytest.raises(InvalidInput) as refused:
        batch(allowed_operations="shop.*").submit(job)
    assert said in str(refused.value)


# --- how they are called ------------------------------------------------------------------------------------


def shop() -> BatchQ:
    app = Celery("shop", set_as_current=False, broker="memory://")

    @app.task(name="shop.collect", shared=False)
    def collect(day: str) -> None: ...

    @app.task(name="shop.post", shared=False)
    async def post() -> None: ...

    return BatchQ(app)


LACKS = "'shop.collect' lacks the argument 'day'"
CALLS = [
    ("A: {run: shop.collect}", f"J / A: {LACKS}."),
    ("A: {run: shop.collect, args: [x]}\n  B: {run: shop.collect}", f"J / B: {LACKS}."),
    ("A: {run: shop.collect}\n  B: {run: shop.collect}", f"J / A: {LACKS}. 1 more task is called wrongly."),
    ("A: {run: shop.collect}\n  B: {run: shop.post}\n  C: {run: shop.post}", "2 more tasks are called wrongly."),
    (
        "A: {run: shop.collect, kwargs: {dya: hunter2}}",
        "J / A: 'shop.collect' takes no argument 'dya' (closest: 'day'), and lacks the argument 'day'.",
    ),
    ("A: {run: shop.post}", "J / A: 'shop.post' is a coroutine function, which Celery calls and never awaits"),
]


@pytest.mark.parametrize(("tasks", "said"), CALLS)
def test_a_job_that_calls_an_operation_wrongly_is_refused_and_nothing_is_stored(
    batchq: Command, batchq_json: Callable[..., Any], tmp_path: Path, tasks: str, said: str
):
    file = tmp_path / "job.yaml"
    file.write_text(f"job: J\ntasks:\n  {tasks}\n")
    celery = SimpleNamespace(app=shop().app)
    for command in (("submit", file), ("validate", file)):
        stderr = batchq(*command, code=2, obj=celery).stderr
        assert said in stderr
        assert "hunter2" not in stderr
    assert batchq_json("runs", "list") == []
    assert batchq_json("job", "list") == []


def test_a_job_of_python_that_names_its_operations_is_refused_by_submit():
    job = Job("J")
    job.task("A", "shop.collect")
    with pytest.raises(InvalidInput, match=f"^J / A: {LACKS}[.]$"):
        shop().submit(job)
