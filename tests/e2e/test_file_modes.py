"""What batchq makes is for its user alone, also where the umask would let everybody in."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from batchq.config import private_file
from support.site import Folder


@pytest.fixture
def umask_of_nobody() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def modes(*roots: Path) -> dict[str, str]:
    """The mode of everything there that others may read, write or enter."""
    paths = [path for root in roots for path in (root, *root.rglob("*"))]
    found = {str(path): stat.S_IMODE(path.lstat().st_mode) for path in paths}
    return {path: f"{mode:o}" for path, mode in found.items() if mode & 0o077}


@pytest.mark.usefixtures("umask_of_nobody")
def test_folders_and_files_are_made_for_their_user_alone(tmp_path: Path):
    private_file(tmp_path / "a" / "b" / "c.db")
    assert modes(tmp_path / "a") == {}
    (tmp_path / "mine").touch(mode=0o640)
    private_file(tmp_path / "mine")
    assert modes(tmp_path / "mine") == {str(tmp_path / "mine"): "640"}  # what somebody else made is theirs


@pytest.mark.slow
@pytest.mark.usefixtures("umask_of_nobody")
def test_nothing_that_the_embedded_engine_makes_is_for_others(tmp_path: Path):
    home, sockets = tmp_path / "new" / "home", tmp_path / "sockets"
    sockets.mkdir(mode=0o700)
    with Folder(tmp_path, BATCHQ_HOME=str(home), TMPDIR=str(sockets)) as folder:
        folder.start("dev", "dev", "--no-console", "--server", "AOS1")
        folder.wait_for(
            "AOS1 to be open", lambda: home.exists() and [one["state"] for one in servers(folder)] == ["open"]
        )
        assert {path.name for path in home.rglob("*")} >= {"lock", "guests", "logs", "batchq.db", "batchq.db-wal"}
        assert [path.name for path in sockets.rglob("broker")] == ["broker"]
        assert modes(home.parent, sockets) == {}
        folder.stop("dev")
        assert modes(home.parent, sockets) == {}


def servers(folder: Folder) -> list[dict[str, str]]:
    ended = folder.cli("server", "list", "-o", "json", code=None)
    return json.loads(ended.stdout) if ended.returncode == 0 else []
