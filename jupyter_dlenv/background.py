"""One thread with an event loop of its own, for what must go on while a caller's loop is busy, blocked or stopped."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class _Thread:
    """The thread, started on first use and gone with the process."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()

    def loop(self) -> asyncio.AbstractEventLoop:
        """Return the running loop."""
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="dlenv-background", daemon=True).start()
            return self._loop


_THREAD = _Thread()


def start(work: Coroutine[Any, Any, T]) -> Future[T]:
    """Run a coroutine on the background thread and return its future."""
    return asyncio.run_coroutine_threadsafe(work, _THREAD.loop())


def run(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine on the background thread and wait for its result; never to be called from that thread."""
    return start(work()).result()
