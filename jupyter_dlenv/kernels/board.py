"""What the kernels of this process are doing: launch states as they come, and how the ended ones ended."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum

_ENDED_KEPT = 50


class Phase(str, Enum):
    """Where a kernel stands, in the order of a launch; the last is its end."""

    QUEUED = "QUEUED"
    PULLING = "PULLING"
    CREATING = "CREATING"
    STARTING = "STARTING"
    READY = "RUNNING"
    ENDED = "FAILED"


@dataclass(frozen=True)
class Report:
    """What is known of one kernel.

    Attributes:
        environment, image: Names, for a kernel that its engine does not know yet or any more.
        message: One sentence for a person: how far a pull is, a warning, why the kernel ended.
        why, last_lines: Why it ended last, and what it wrote before; kept when it is started again.
        changed_at, ended_at: Seconds since the epoch; the latter is kept, too.
    """

    kernel_id: str
    environment: str = ""
    image: str = ""
    engine: str = ""
    phase: Phase = Phase.QUEUED
    message: str = ""
    why: str = ""
    last_lines: str = ""
    changed_at: float = 0.0
    ended_at: float | None = None


Listener = Callable[[Report], None]


class Board:
    """The latest report of each kernel of this process. Every method may be called from any thread."""

    def __init__(self) -> None:
        self._reports: dict[str, Report] = {}
        self._listeners: list[Listener] = []
        self._lock = threading.Lock()

    def update(self, kernel_id: str, **changes: object) -> None:
        """Change a kernel's report and tell the listeners, who must not block."""
        with self._lock:
            before = self._reports.pop(kernel_id, Report(kernel_id))
            report = replace(before, changed_at=time.time(), **changes)  # type: ignore[arg-type]  # fields by name
            self._reports[kernel_id] = report  # last again: the ended ones are dropped in the order of their ends
            self._drop_oldest_ends()
            listeners = list(self._listeners)
        for listener in listeners:
            listener(report)

    def _drop_oldest_ends(self) -> None:
        ended = [key for key, report in self._reports.items() if report.phase is Phase.ENDED]
        for key in ended[:-_ENDED_KEPT]:
            del self._reports[key]

    def forget(self, kernel_id: str) -> None:
        """Drop a kernel that its owner shut down."""
        with self._lock:
            self._reports.pop(kernel_id, None)

    def get(self, kernel_id: str) -> Report | None:
        """Return a kernel's report."""
        with self._lock:
            return self._reports.get(kernel_id)

    def all(self) -> list[Report]:
        """Return every report, the latest change last."""
        with self._lock:
            return list(self._reports.values())

    def listen(self, listener: Listener) -> None:
        """Call a function with each new report, on whichever thread it comes."""
        with self._lock:
            self._listeners.append(listener)

    def unlisten(self, listener: Listener) -> None:
        """Call it no more."""
        with self._lock:
            self._listeners.remove(listener)


BOARD = Board()
"""The kernels of this process."""
