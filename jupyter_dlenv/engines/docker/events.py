"""What happens to our containers, as Docker tells it: one stream a process, however many containers are watched."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from enum import Enum
from typing import Any

from docker import APIClient
from docker.errors import DockerException

from ...errors import EngineUnavailable
from .request import LABEL_PREFIX

_AGAIN_S = 0.5


class Happening(Enum):
    """What a watcher is told of its container, or of the daemon."""

    OUT_OF_MEMORY = "oom"
    DIED = "die"
    REMOVED = "destroy"
    UNREACHABLE = "unreachable"
    REACHABLE = "reachable"


Watcher = Callable[[Happening], None]


class EventStream:
    """Tells watchers what happens, on a thread of its own that starts with the first of them.

    A container may be told to have died twice, never not at all: each connection asks for what happened since the
    last one. Watchers must not block.

    Args:
        connect: Makes a client for this thread alone.
    """

    def __init__(self, connect: Callable[[], APIClient]) -> None:
        self._connect = connect
        self._watchers: dict[str, Watcher] = {}
        self._lock = threading.Lock()
        self._since = 0
        self._thread: threading.Thread | None = None

    def watch(self, container: str, watcher: Watcher) -> None:
        """Tell the watcher what happens to a container from now on."""
        with self._lock:
            self._watchers[container] = watcher
            if self._thread is None:
                self._since = int(time.time())
                self._thread = threading.Thread(target=self._follow, name="dlenv-docker-events", daemon=True)
                self._thread.start()

    def forget(self, container: str) -> None:
        """Tell nothing more of a container."""
        with self._lock:
            self._watchers.pop(container, None)

    def _follow(self) -> None:
        reachable = True
        while True:
            try:
                stream = self._open()
                if not reachable:
                    reachable = True
                    self._tell_all(Happening.REACHABLE)
                for event in stream:
                    self._pass_on(event)
            except (DockerException, OSError, EngineUnavailable):
                pass
            if reachable:
                reachable = False
                self._tell_all(Happening.UNREACHABLE)
            time.sleep(_AGAIN_S)

    def _open(self) -> Any:
        wanted = [kind.value for kind in (Happening.OUT_OF_MEMORY, Happening.DIED, Happening.REMOVED)]
        filters = {"type": ["container"], "event": wanted, "label": [f"{LABEL_PREFIX}schema"]}
        return self._connect().events(since=self._since, filters=filters, decode=True)

    def _pass_on(self, event: dict[str, Any]) -> None:
        self._since = int(event["time"])
        with self._lock:
            watcher = self._watchers.get(event["Actor"]["ID"])
        if watcher is not None:
            watcher(Happening(event["Action"]))

    def _tell_all(self, happening: Happening) -> None:
        with self._lock:
            watchers = list(self._watchers.values())
        for watcher in watchers:
            watcher(happening)
