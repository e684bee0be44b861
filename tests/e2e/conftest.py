"""A test that fails shows what its processes printed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from e2e.site import Folder


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    if report.failed and isinstance(item, pytest.Function):
        for folder in (value for value in item.funcargs.values() if isinstance(value, Folder)):
            report.sections += [(f"log of {name}", tail) for name, tail in folder.logs()]
    return report
