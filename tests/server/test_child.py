"""What a pool child does with one attempt: the user's own task, its hooks and signals, its log, its result (rule 9a),
and what it knows of its job (rule 38).
"""

from __future__ import annotations

import logging
import pickle
import pickletools
from typing import Any

import pytest
from celery import Celery, Task, signals
from celery.exceptions import Ignore, Reject

from batchq.server.child.executing import Errand, execute
from batchq.server.child.order import Current, Done, Order, current

app = Celery("shop", set_as_current=False)
seen: list[Any] = []


class Hooked(Task):
    def before_start(self, task_id, args, kwargs):
        seen.append(("before_start", task_id))

    def on_success(self, retval, task_id, args, kwargs):
        seen.append(("on_success", retval))

    def on_retry(self, exc, task_id, args, kwargs, einfo):
        seen.append(("on_retry", type(exc).__name__))

    def on_failure(self, exc, task_id, args, kwargs, einfo):
        seen.append(("on_failure", type(exc).__name__))

    def after_return(self, status, retval, task_id, args, kwargs, einfo):
        seen.append(("after_return", status))


@app.task(base=Hooked, name="ok")
def ok(value=None):
    return value


@app.task(base=Hooked, name="fails")
def fails():
    logging.getLogger("shop").warning("about to fail")
    raise ValueError("no such order\x00")


@app.task(bind=True, name="retries", max_retries=5)
def retries(self):
    raise self.retry(exc=OSError("try later"))


@app.task(name="auto", autoretry_for=(OSError,), retry_backoff=True)
def auto():
    raise OSError("try later")


@app.task(bind=True, name="looks")
def looks(self):
    request = self.request
    return [request.id, request.retries, request.hostname, request.delivery_info["routing_key"], current().task]


@app.task(name="ignores")
def ignores():
    raise Ignore


@app.task(name="rejects")
def rejects():
    raise Reject("not mine")


@app.task(name="exits")
def exits():
    raise SystemExit(3)


@pytest.fixture(autouse=True)
def as_in_a_child():
    app.set_current()
    seen.clear()


def run(
    operation: str, args: str = "[]", kwargs: str = "{}", *, log_bytes: int = 1000, result_bytes: int = 100, **more: Any
) -> Done:
    work = Current("JOB 1", 7, "TASK 3", 2, "anna", "dat")
    return execute(Order(operation, args, kwargs, "5f0c", work, "AOS1@h", "BG1", log_bytes, result_bytes, **more))


def errand(**more: Any) -> Errand:
    work = Current("JOB 1", 7, "TASK 3", 2, "anna", "dat")
    return Errand("looks", "[]", "{}", "5f0c", work, "AOS1@h", "BG1", 1000, 100, **more)


def test_an_errand_arrives_as_it_left_and_is_carried_out_there():
    sent = errand(last=False, time_limits=(9.5, None), most_attempts=3, most_kilobytes=70_000)
    arrived = pickle.loads(pickle.dumps(sent, pickle.HIGHEST_PROTOCOL))
    assert arrived == sent
    assert arrived() == execute(sent) == Done(True, result='["5f0c", 1, "AOS1@h", "BG1", "TASK 3"]')


def test_an_errand_names_one_function_and_its_answer_none():
    """Each further name would cost the server and the child as much as all values together."""
    ways = pickletools.genops(pickle.dumps(errand())), pickletools.genops(pickle.dumps(errand()()))
    assert [sum("GLOBAL" in op.name for op, _, _ in way) for way in ways] == [1, 0]


def test_a_result_comes_back_as_json_and_the_hooks_are_called():
    assert run("ok", '[{"rows": 3}]') == Done(True, result='{"rows": 3}')
    assert seen == [("before_start", "5f0c"), ("on_success", {"rows": 3}), ("after_return", "SUCCESS")]


def test_an_error_comes_back_as_one_line_with_the_traceback_in_the_log():
    done = run("fails")

    assert (done.ok, done.error, done.result) == (False, "ValueError: no such order\ufffd", None)
    assert "about to fail" in done.log
    assert "Traceback" in done.log
    assert seen == [("before_start", "5f0c"), ("on_failure", "ValueError"), ("after_return", "FAILURE")]


@pytest.mark.parametrize("operation", ["retries", "auto"])
def test_a_retry_of_celery_only_raises(operation: str):
    assert run(operation).error == "OSError: try later"


def test_the_operation_has_its_own_request_and_knows_what_it_works_for():
    assert run("looks").result == '["5f0c", 1, "AOS1@h", "BG1", "TASK 3"]'


def test_current_works_only_inside():
    with pytest.raises(LookupError, match="only inside an operation"):
        current()


@pytest.mark.parametrize(
    ("operation", "done"),
    [
        ("ignores", (True, None)),
        ("rejects", (False, "Reject: (not mine, False)")),
        ("exits", (False, "SystemExit: 3")),
        ("nobody", (False, "No task named 'nobody' is registered with the app of AOS1@h.")),
    ],
)
def test_every_way_to_end_has_its_outcome(operation: str, done: tuple[bool, str | None]):
    got = run(operation)

    assert got.ok is done[0]
    assert (got.error or "").replace("'", "") == (done[1] or "").replace("'", "")


@pytest.mark.parametrize("value", ['"' + "x" * 200 + '"', "NaN"])
def test_a_result_that_is_too_large_or_no_json_is_left_out_and_the_log_says_so(value: str):
    done = run("ok", f"[{value}]")

    assert (done.ok, done.result) == (True, None)
    assert "The result is not kept" in done.log


def test_of_a_long_log_the_end_is_kept():
    done = run("fails", log_bytes=40)

    assert done.log.startswith("[… ")
    assert done.log.endswith("ValueError: no such order\ufffd\n")


def test_the_signals_of_celery_are_sent():
    told: list[str] = []
    receivers = {
        name: lambda name=name, **_: told.append(name) for name in ("task_prerun", "task_success", "task_postrun")
    }
    for name, receiver in receivers.items():
        getattr(signals, name).connect(receiver, weak=False)
    try:
        run("ok")
    finally:
        for name, receiver in receivers.items():
            getattr(signals, name).disconnect(receiver)

    assert told == ["task_prerun", "task_success", "task_postrun"]
