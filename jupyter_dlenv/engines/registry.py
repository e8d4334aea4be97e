"""Engines by name, from the entry-point group ``jupyter_dlenv.engines``."""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points

from ..errors import InvalidRequest
from ..i18n import _
from .base import Engine

GROUP = "jupyter_dlenv.engines"


def engine_names() -> list[str]:
    """Return the engines that are installed."""
    return sorted(point.name for point in entry_points(group=GROUP))


@cache
def load_engine(name: str) -> Engine:
    """Return the engine of that name, made once a process.

    Raises:
        InvalidRequest: There is none.
    """
    for point in entry_points(group=GROUP, name=name):
        engine = point.load()()
        assert isinstance(engine, Engine)
        return engine
    raise InvalidRequest(_("There is no engine {name!r}.").format(name=name), hint=", ".join(engine_names()))
