"""A network of its own for one process: its only link to this machine can be cut, and nobody is told."""

from __future__ import annotations

import os
import subprocess
from typing import Self


class Network:
    """A network namespace behind one link; `made` is False where none is wanted, or none could be made."""

    def __init__(self, *, wanted: bool = True) -> None:
        number = os.getpid()
        self._name = f"chaos-{number}"
        self._link = f"chaos{number % 2**20}"  # a link's name may measure 15 characters
        self.address = f"10.199.{number % 256}.1"
        inside = ("ip", "-n", self._name)
        steps = [
            ("ip", "netns", "add", self._name),
            ("ip", "link", "add", self._link, "type", "veth", "peer", "name", "eth0", "netns", self._name),
            ("ip", "address", "add", f"{self.address}/30", "dev", self._link),
            ("ip", "link", "set", self._link, "up"),
            (*inside, "address", "add", f"10.199.{number % 256}.2/30", "dev", "eth0"),
            (*inside, "link", "set", "eth0", "up"),
            (*inside, "link", "set", "lo", "up"),
        ]
        self.made = wanted and all(_done(*step) for step in steps)

    @property
    def argv(self) -> list[str]:
        """What a command begins with that is to run there."""
        return ["nsenter", f"--net=/run/netns/{self._name}"] if self.made else []

    def cut(self) -> None:
        """Let every packet be lost."""
        _done("ip", "link", "set", self._link, "down")

    def mend(self) -> None:
        """Let packets pass again."""
        _done("ip", "link", "set", self._link, "up")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for command in (("ip", "link", "delete", self._link), ("ip", "netns", "delete", self._name)):
            _done(*command)


def _done(*command: str) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:  # there is no such program
        return False
