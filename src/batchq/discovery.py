"""Where the host's Celery app is: as `celery -A` finds it, and under the other names that projects give it."""

from __future__ import annotations

import importlib
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from celery import Celery
from celery.app.utils import find_app as find_celery_app

from batchq.errors import InvalidInput

# Names that projects give their app, tried after Celery's own search.
NAMES = ("app", "celery", "celery_app", "batch")


def find(path: str, kinds: tuple[type, ...] = (Celery,)) -> Any:
    """The app at the path, of one of these kinds: the one that Celery finds, else one that has another name there.

    The path is looked for in the current folder too. Raises InvalidInput.
    """
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    module, _, attribute = path.partition(":")
    try:
        found = find_celery_app(path)
        if isinstance(found, kinds):
            return found
    except AttributeError:  # there is none where Celery looks, or the import itself failed, which then fails again
        pass
    except Exception as error:
        if not (isinstance(error, ModuleNotFoundError) and _leads_to(error.name, path)):
            raise _not_imported(path, error) from error
    apps: list[str] = []
    places = _places(module, path)
    if not attribute and places[0].__name__ != module:
        attribute = module.rpartition(".")[2]
    for place in places:
        for name in [attribute] if attribute else NAMES:
            # Celery takes whatever is named `app`, which may be Flask's.
            if isinstance(found := getattr(place, name, None), kinds):
                return found
        apps += [f"{place.__name__}:{name}" for name, value in vars(place).items() if isinstance(value, Celery)]
    hint = f" It has {', '.join(map(repr, apps))}." if apps else ""
    raise InvalidInput(f"{path!r} names no Celery app.{hint}")


def _places(module: str, path: str) -> list[ModuleType]:
    """The modules to search: that of the path, or its parent for `module.attribute`, and its submodule `celery`.

    Raises InvalidInput.
    """
    try:
        there = importlib.import_module(module)
        if hasattr(there, "__path__") and find_spec(f"{module}.celery"):
            # Celery passes over whatever goes wrong in it.
            return [there, importlib.import_module(f"{module}.celery")]
        return [there]
    except ModuleNotFoundError as error:
        above = module.rpartition(".")[0]
        if above and error.name == module and ":" not in path:
            return _places(above, path)
        if _leads_to(error.name, module):
            said = f"No module named {error.name!r} for the app {path!r}; looked in {Path.cwd()} too."
            raise InvalidInput(said) from None
        raise _not_imported(path, error) from error
    except Exception as error:
        raise _not_imported(path, error) from error


def _leads_to(name: str | None, path: str) -> bool:
    """Whether the module of this name is the one that the path names, or one of those above it."""
    return bool(name) and f"{path}.".replace(":", ".").startswith(f"{name}.".replace(":", "."))


def _not_imported(path: str, error: Exception) -> InvalidInput:
    kind = "" if isinstance(error, ImportError) else f"{type(error).__name__}: "
    return InvalidInput(f"The app {path!r} cannot be imported: {kind}{str(error).strip().rstrip('.')}.")
