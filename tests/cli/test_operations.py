"""Which tasks of the app a job may run: registered ones that the settings allow, and never Celery's own."""

from __future__ import annotations

import pytest
from celery import Celery

from batchq import BatchQ, Job
from batchq.errors import InvalidInput

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
    joined = batch(operations=patterns)
    assert [name for name in joined.operations() if name in NAMES] == allowed
    assert not [name for name in joined.operations() if name.startswith(("celery.", "batchq."))]


@pytest.mark.parametrize(
    ("operation", "said"),
    [
        ("hr.pay", "J / A: 'hr.pay' may not be run: the settings allow 'shop.*' (BATCHQ_OPERATIONS)"),
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
        batch(operations="shop.*").submit(job)
    assert said in str(refused.value)
