"""A server extension that feels how late the server's event loop is: a callback that is due every five milliseconds."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from jupyter_server.base.handlers import JupyterHandler
from tornado.web import authenticated

PATH = "/bench/pulse"
_PERIOD_S = 0.005


class Pulse:
    """Remembers how late each callback was since the last :meth:`begin`."""

    def __init__(self) -> None:
        self._late_ms: list[float] = []

    def begin(self) -> None:
        """Forget what was."""
        self._late_ms = []

    def felt(self) -> dict[str, float]:
        """Return the largest lateness, and the one that a callback in a hundred passes."""
        late = sorted(self._late_ms) or [0.0]
        return {"late_ms": late[-1], "p99_ms": late[int(0.99 * (len(late) - 1))]}

    async def beat(self) -> None:
        """Feel for ever."""
        while True:
            due = time.perf_counter() + _PERIOD_S
            await asyncio.sleep(_PERIOD_S)
            self._late_ms.append((time.perf_counter() - due) * 1e3)


class _PulseHandler(JupyterHandler):
    def initialize(self, pulse: Pulse) -> None:
        self._pulse = pulse

    @authenticated
    def get(self) -> None:
        """Answer with the lateness since the last answer."""
        self.finish(self._pulse.felt())
        self._pulse.begin()


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": __name__}]


def _load_jupyter_server_extension(app: Any) -> None:
    pulse = Pulse()
    app.web_app.add_handlers(".*$", [(app.base_url.rstrip("/") + PATH, _PulseHandler, {"pulse": pulse})])
    task: list[asyncio.Task[None]] = []  # a loop keeps no strong reference to its tasks
    app.io_loop.add_callback(lambda: task.append(asyncio.ensure_future(pulse.beat())))
