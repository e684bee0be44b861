"""`batchq web`: what it refuses, each in one line and with its own exit code."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.site import Folder


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Folder]:
    with Folder(tmp_path, BATCHQ_BROKER_URL="redis://127.0.0.1:1/0") as folder:
        yield folder


def test_an_address_beyond_this_machine_needs_a_login(shell: Folder):
    refused = shell.cli("web", "--address", "0.0.0.0", "--port", "0", code=2)
    assert refused.stderr.startswith("Error: Flower on ")
    assert "Set FLOWER_BASIC_AUTH=name:password" in refused.stderr


def test_the_address_may_come_from_flowers_own_settings_and_is_refused_all_the_same(shell: Folder):
    (shell.folder / "flowerconfig.py").write_text("address = '0.0.0.0'\n")
    shell.cli("web", code=2)


def test_a_port_that_is_taken_is_a_conflict(shell: Folder):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        refused = shell.cli("web", "--port", port, code=5)
    assert refused.stderr.splitlines()[-1] == (
        f"Error: Flower cannot listen on 127.0.0.1:{port} (Address already in use). Choose another with --port."
    )


def test_a_wrong_setting_of_flower_is_one_line(shell: Folder):
    refused = shell.cli("web", code=2, FLOWER_CONF="gone.py")
    assert refused.stderr.startswith("Error: Flower's settings: ")
    assert "Traceback" not in refused.stderr


def test_without_a_broker_there_is_nothing_to_show(shell: Folder):
    refused = shell.cli("web", code=4, BATCHQ_BROKER_URL="")
    assert refused.stderr.startswith("Error: No broker is named")
