"""The brokers that a test is run on; and a test that fails shows what its processes printed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.brokers import NO_RABBITMQ, PROGRAM
from support.site import Folder

RABBITMQ = pytest.param("rabbitmq", marks=[pytest.mark.slow, pytest.mark.skipif(PROGRAM is None, reason=NO_RABBITMQ)])


@pytest.fixture(scope="module", params=["valkey", RABBITMQ])
def broker(request: pytest.FixtureRequest) -> str:
    """The kind of broker that a `Site` is given; the test runs once on each."""
    kind: str = request.param
    return kind


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str | None:
    """The PostgreSQL database that a `Site` is given, or None for its own file; the test runs once on each."""
    url: str | None = request.getfixturevalue("postgresql_url") if request.param == "postgresql" else None
    return url


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    if report.failed and isinstance(item, pytest.Function):
        for folder in (value for value in item.funcargs.values() if isinstance(value, Folder)):
            report.sections += [(f"log of {name}", tail) for name, tail in folder.logs()]
    return report
