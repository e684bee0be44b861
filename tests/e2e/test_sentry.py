"""Sentry, which patches Celery's tracer, sees operations as it sees tasks of `celery worker`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from support.site import Site

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

APP = """
import json
import os

import sentry_sdk
from celery import Celery
from sentry_sdk.integrations.celery import CeleryIntegration
from sentry_sdk.transport import Transport

from batchq import BatchQ


class ToFile(Transport):
    def capture_envelope(self, envelope):
        for item in envelope.items:
            line = json.dumps({"type": item.type, "payload": item.payload.json}, default=str) + "\\n"
            with open("sentry", "a") as file:
                file.write(line)


sentry_sdk.init(
    dsn="https://key@localhost/1",
    transport=ToFile,
    integrations=[CeleryIntegration()],
    traces_sample_rate=1.0,
)

app = Celery("erp", set_as_current=False)
BatchQ(app)


@app.task(name="erp.post")
def post(fail):
    if fail:
        raise RuntimeError("the period is closed")
"""
JOB = """
job: POST
tasks:
  good: {run: erp.post, args: [false], group: GROUP}
  bad: {run: erp.post, args: [true], group: GROUP}
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A server on processes, and one on threads that takes the group BG1."""
    folder = tmp_path_factory.mktemp("sentry")
    (folder / "erp.py").write_text(APP)
    with Site(folder, app="erp") as site:
        site.start_broker()
        site.apply("groups: {BG1: {}}\nservers: {AOS1: {threads: 1}, AOS2: {threads: 1, groups: [BG1]}}")
        site.start_coordinator()
        site.start_server("AOS1")
        site.start_server("AOS2", pool="threads")
        yield site


@pytest.mark.parametrize("group", ["default", "BG1"], ids=["prefork", "threads"])
def test_sentry_sees_the_error_of_a_failing_operation_and_the_trace_of_each(site: Site, group: str) -> None:
    (site.folder / "post.yaml").write_text(JOB.replace("GROUP", group))
    site.wait_end(site.json("submit", "post.yaml")["run"])
    told = [json.loads(line) for line in (site.folder / "sentry").read_text().splitlines()]
    (site.folder / "sentry").unlink()

    (error,) = (one["payload"] for one in told if one["type"] == "event")
    (exception,) = error["exception"]["values"]
    assert (exception["type"], exception["value"]) == ("RuntimeError", "the period is closed")
    assert exception["mechanism"] == {"type": "celery", "handled": False}
    assert error["transaction"] == "erp.post"
    assert error["extra"]["celery-job"]["task_name"] == "erp.post"
    assert sorted(_statuses(told)) == ["internal_error", "ok"]


def _statuses(told: list[dict[str, Any]]) -> list[str]:
    traces = [one["payload"] for one in told if one["type"] == "transaction"]
    assert {trace["transaction"] for trace in traces} == {"erp.post"}
    return [trace["contexts"]["trace"]["status"] for trace in traces]
