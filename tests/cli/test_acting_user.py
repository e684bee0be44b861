"""Who acts: BATCHQ_USER, else the login and the machine."""

from __future__ import annotations

import getpass
import platform

import pytest

from batchq.config import acting_user


@pytest.mark.parametrize(
    ("said", "name"),
    [("olav", "olav"), (" Kari Nordmann ", "Kari Nordmann"), ("a\nb\udcff", "a?b?"), ("x" * 300, "x" * 200)],
)
def test_the_user_is_whom_the_environment_names(monkeypatch, said, name):
    monkeypatch.setenv("BATCHQ_USER", said)
    assert acting_user() == name


@pytest.mark.parametrize("said", ["", "  "])
def test_else_it_is_the_login_on_this_machine(monkeypatch, said):
    monkeypatch.setenv("BATCHQ_USER", said)
    assert acting_user() == f"{getpass.getuser()}@{platform.node()}"
