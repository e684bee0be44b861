"""Windows: one more for a server, or one less."""

from __future__ import annotations

from batchq.actions.server import ServerFacts, change_server
from batchq.core.topology import Server
from batchq.core.windows import Window
from batchq.errors import Action, Advice, unknown
from batchq.store.database import Database


def add_window(database: Database, name: str, window: Window, *, ahead: int = 0) -> list[str]:
    """Give a server one more window; raises as `set_server` does."""
    return change_server(database, name, lambda server: {"windows": (*server.windows, window)}, ahead)


def remove_window(database: Database, name: str, window: int | str | Window, *, ahead: int = 0) -> list[str]:
    """Take a window from a server: by its number, from 1 in the order in which they are listed, or by its text.

    Raises NotFound if the server, or the window, is not there.
    """

    def rest(server: Server) -> ServerFacts:
        at = _position(server, window)
        return {"windows": server.windows[:at] + server.windows[at + 1 :]}

    return change_server(database, name, rest, ahead)


def _position(server: Server, window: int | str | Window) -> int:
    texts = [str(each) for each in server.windows]
    if isinstance(window, int) and 0 < window <= len(texts):
        return window - 1
    if str(window) in texts:
        return texts.index(str(window))
    advice = Advice("{} shows them.", Action.LIST_WINDOWS, (server.name,)) if texts else "It has none."
    raise unknown(f"window of {server.name}", window, texts, advice=advice)
