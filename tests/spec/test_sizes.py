"""Sizes hold at every door: `submit` refuses what `validate` refuses, and stores nothing then."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from celery import Celery

from batchq import BatchQ, Job
from batchq.config import Settings
from batchq.errors import InvalidInput
from batchq.spec import JobSpec, Sizes, loads

FILE = """
job: NIGHT
tasks:
  Collect: {run: shop.collect.all, args: [a long argument]}
  Invoice: {run: shop.collect.all, after: Collect, group: BILLING}
  Report: {run: shop.collect.all, after: [Collect, Invoice]}
"""
# Each setting, a value that the job exceeds, and what is said of it.
SMALL = {
    "max_tasks": (2, "Job 'NIGHT': tasks: has 3 tasks, at most 2 are allowed."),
    "max_conditions": (2, "Job 'NIGHT': tasks: has 3 conditions, at most 2 are allowed."),
    "argument_bytes": (
        24,
        "Job 'NIGHT': tasks.Collect: args and kwargs take 25 bytes as JSON, at most 24 are allowed.",
    ),
    "name_chars": (
        12,
        "Job 'NIGHT': tasks.Collect.run: the name 'shop.collect.all' has 16 characters, at most 12",
    ),
}


@pytest.fixture
def app(tmp_path: Path) -> Celery:
    app = Celery("shop", broker="memory://", set_as_current=False)

    @app.task(name="shop.collect.all", shared=False)
    def collect(*_: object) -> None:
        raise AssertionError("nothing is to run")

    return app


def joined(app: Celery, tmp_path: Path, **settings: int) -> BatchQ:
    app.conf.update({f"batchq_{name}": value for name, value in settings.items()})
    return BatchQ(app, database_url=f"sqlite:///{tmp_path / 'batchq.db'}", home=tmp_path)


def written() -> Job:
    job = Job("NIGHT")
    collect = job.task("Collect", "shop.collect.all", args=["a long argument"])
    invoice = job.task("Invoice", "shop.collect.all", after=collect.success, group="BILLING")
    job.task("Report", "shop.collect.all", after=collect.success & invoice.success)
    return job


def read() -> JobSpec:
    (job,) = loads(FILE).jobs.values()
    return job


@pytest.mark.parametrize("job", [written(), read()], ids=["from Python", "from a file"])
@pytest.mark.parametrize("name", SMALL)
def test_submit_refuses_what_validate_refuses_and_stores_nothing(
    app: Celery, tmp_path: Path, job: Job | JobSpec, name: str
):
    value, sentence = SMALL[name]
    small = {name: value}
    with pytest.raises(InvalidInput):
        loads(FILE, sizes=Sizes.of(Settings.load(**small)))
    with pytest.raises(InvalidInput) as refused:
        joined(app, tmp_path, **small).submit(job)
    assert str(refused.value).startswith(sentence)
    assert not (tmp_path / "batchq.db").exists()


def wide() -> Job:
    job = Job("WIDE")
    for number in range(4):
        job.task(f"T{number}", "shop.collect.all")
    return job


def unknown() -> Job:
    job = Job("UNKNOWN")
    job.task("A", "shop.collect.none")
    return job


@pytest.mark.parametrize(
    ("wrong", "said"), [(wide, "has 4 tasks, at most 3 are allowed"), (unknown, "no task named 'shop.collect.none'")]
)
def test_a_wrong_job_among_many_is_refused_and_none_of_them_is_stored(
    app: Celery, tmp_path: Path, wrong: Callable[[], Job], said: str
):
    with pytest.raises(InvalidInput, match=said):
        joined(app, tmp_path, max_tasks=3).submit_all([read(), wrong(), written()])
    assert not (tmp_path / "batchq.db").exists()


def test_no_jobs_at_all_are_submitted_without_a_broker_or_a_database(app: Celery, tmp_path: Path):
    assert joined(app, tmp_path).submit_all(iter(())) == []
    assert not (tmp_path / "batchq.db").exists()


def test_a_job_above_the_usual_sizes_is_taken_where_the_settings_allow_it():
    job = Job("WIDE")
    for number in range(3):
        job.task(f"T{number}", "shop.collect.all")
    assert len(job.spec(Sizes(tasks=3)).tasks) == 3
    with pytest.raises(InvalidInput, match="has 3 tasks, at most 2 are allowed"):
        job.spec(Sizes(tasks=2))
