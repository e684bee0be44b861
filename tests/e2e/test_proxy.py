"""The proxy that other tests put before a service: what it holds up, swallows and cuts."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from support.proxy import Proxy


@pytest.fixture
def echo() -> Iterator[tuple[str, int]]:
    """A service that says what it is told."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_serve, args=(server,), daemon=True).start()
        yield server.getsockname()


def _serve(server: socket.socket) -> None:
    while True:
        try:
            client, _ = server.accept()
        except OSError:
            return
        threading.Thread(target=_answer, args=(client,), daemon=True).start()


def _answer(client: socket.socket) -> None:
    with closing(client):
        while data := client.recv(1024):
            client.sendall(data)


def says(client: socket.socket, text: bytes, seconds: float = 5.0) -> bytes | None:
    """What comes back within so many seconds; None if nothing does."""
    client.settimeout(seconds)
    client.sendall(text)
    try:
        return client.recv(1024)
    except TimeoutError:
        return None


def test_what_a_hanging_proxy_held_up_goes_on_when_it_resumes(echo: tuple[str, int]) -> None:
    with Proxy(echo) as proxy, socket.create_connection((proxy.host, proxy.port)) as client:
        assert says(client, b"one") == b"one"
        proxy.hang()
        assert says(client, b"two", 0.1) is None
        with socket.create_connection((proxy.host, proxy.port)) as late:
            assert says(late, b"late", 0.1) is None
            proxy.resume()
            late.settimeout(5)
            client.settimeout(5)
            assert (client.recv(1024), late.recv(1024)) == (b"two", b"late")


def test_a_silent_connection_says_nothing_ever_again_and_a_new_one_works(echo: tuple[str, int]) -> None:
    with Proxy(echo) as proxy, socket.create_connection((proxy.host, proxy.port)) as old:
        assert says(old, b"one") == b"one"
        proxy.silence()
        assert says(old, b"two", 0.1) is None
        with socket.create_connection((proxy.host, proxy.port)) as new:
            assert says(new, b"three") == b"three"
        proxy.resume()
        assert says(old, b"four", 0.1) is None


def test_a_cut_connection_is_closed(echo: tuple[str, int]) -> None:
    with Proxy(echo) as proxy, socket.create_connection((proxy.host, proxy.port)) as client:
        assert says(client, b"one") == b"one"
        proxy.cut()
        client.settimeout(5)
        assert client.recv(1024) == b""
