"""A small disk that can be full: a file system in memory, which takes the right to mount one."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Self

MEGABYTES = 192
STEP = 2**20


class SmallDisk:
    """A folder on a file system of its own; `mounted` is False where none is wanted, or could be made."""

    def __init__(self, *, wanted: bool = True) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="chaos-disk-"))
        self.folder.chmod(0o777)  # PostgreSQL runs as another user
        mount = ["mount", "-t", "tmpfs", "-o", f"size={MEGABYTES}m,mode=777", "chaos", str(self.folder)]
        self.mounted = wanted and subprocess.run(mount, capture_output=True, check=False).returncode == 0
        self._filler = self.folder / "filler"

    def room_for(self, name: str) -> Path:
        """A folder on it that everybody may use."""
        path = self.folder / name
        path.mkdir(mode=0o777)
        path.chmod(0o777)
        return path

    def fill(self, leave: int = 0) -> None:
        """Leave no room on it, or so many bytes."""
        with self._filler.open("ab", buffering=0) as file:
            if leave:
                os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(self.folder).free - leave)
                return
            with suppress(OSError):
                while True:
                    os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), STEP)
            with suppress(OSError):
                while file.write(b"\0" * 512):
                    pass

    def free(self) -> None:
        """Give the room back."""
        self._filler.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.mounted:
            subprocess.run(["umount", "-l", str(self.folder)], capture_output=True, check=False)
        with suppress(OSError):
            self.folder.rmdir()
