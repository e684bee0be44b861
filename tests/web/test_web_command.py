"""`batchq web`: what it refuses, each in one line and with its own exit code."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from processes import Processes, processes


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Processes]:
    with processes(tmp_path) as started:
        yield started


@pytest.mark.parametrize("address", ["0.0.0.0", ""])
def test_an_address_beyond_this_machine_needs_a_login(shell: Processes, address: str):
    refused = shell.ended("web", "--address", address, "--port", "0")
    assert refused.returncode == 2
    assert refused.stderr.startswith("Error: Flower on ")
    assert "Set FLOWER_BASIC_AUTH=name:password" in refused.stderr


def test_the_address_may_come_from_flowers_own_settings_and_is_refused_all_the_same(shell: Processes):
    (shell.folder / "flowerconfig.py").write_text("address = '0.0.0.0'\n")
    assert shell.ended("web").returncode == 2


def test_a_port_that_is_taken_is_a_conflict(shell: Processes):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        refused = shell.ended("web", "--port", port)
    assert refused.returncode == 5
    assert refused.stderr.splitlines()[-1] == (
        f"Error: Flower cannot listen on 127.0.0.1:{port} (Address already in use). Choose another with --port."
    )


@pytest.mark.parametrize(("name", "value"), [("FLOWER_PORT", "http"), ("FLOWER_CONF", "gone.py")])
def test_a_wrong_setting_of_flower_is_one_line(shell: Processes, name: str, value: str):
    refused = shell.ended("web", **{name: value})
    assert refused.returncode == 2
    assert refused.stderr.startswith("Error: Flower's settings: ")
    assert "Traceback" not in refused.stderr
