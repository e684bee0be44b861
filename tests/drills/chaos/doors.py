"""The doors: proxies before broker and database, through which some of the processes reach them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Self

from support.proxy import Proxy, Target


class Doors:
    """Proxies before one service, one for each address of this machine; they hang and fall silent together."""

    def __init__(self, target: Target, addresses: list[str], url_at: Callable[[str], str]) -> None:
        self._proxies = {address: Proxy(target, address) for address in addresses}
        self._url_at = url_at
        self._open = ExitStack()

    def url(self, address: str) -> str:
        """The service's URL by way of the door at this address."""
        return self._url_at(self._proxies[address].address)

    @property
    def connections(self) -> int:
        """How many connections go through them now."""
        return sum(proxy.connections for proxy in self._proxies.values())

    def hang(self) -> None:
        """Carry nothing, whoever comes."""
        for proxy in self._proxies.values():
            proxy.hang()

    def resume(self) -> None:
        """Carry what waited, and what comes."""
        for proxy in self._proxies.values():
            proxy.resume()

    def silence(self) -> None:
        """Swallow for good what is said on the connections of this moment."""
        for proxy in self._proxies.values():
            proxy.silence()

    def __enter__(self) -> Self:
        for proxy in self._proxies.values():
            self._open.enter_context(proxy)
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()
