"""Signals that this process gets, and those that it sends on the way to an end."""

import os
import select
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List, Tuple

HANDLED = tuple(
    getattr(signal, "SIG" + name) for name in ("CHLD", "CONT", "HUP", "INT", "QUIT", "TERM", "USR1", "USR2", "WINCH")
)
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class Ladder:
    """How a command is ended: interrupt, terminate, kill, each after its grace."""

    def __init__(self, grace_s: "List[float]") -> None:
        self.cause = "exited"
        self._grace_s = grace_s
        self._steps: List[Tuple[float, int]] = []

    def begin(self, cause: str, now: float, gently: bool = True) -> None:
        """Start at the first step, once; at the second where an interrupt would only make it tell where it was."""
        if self.cause != "exited":
            return
        self.cause = cause
        to_term, to_kill = self._grace_s
        self._steps = [
            (now, signal.SIGINT),
            (now + to_term, signal.SIGTERM),
            (now + to_term + to_kill, signal.SIGKILL),
        ]
        if not gently:
            self._steps = [(now, signal.SIGTERM), (now + to_kill, signal.SIGKILL)]

    def kill(self, cause: str, now: float) -> None:
        """Go to the last step at once."""
        self.cause = cause if self.cause == "exited" else self.cause
        self._steps = [(now, signal.SIGKILL)]

    def leftovers(self, now: float) -> None:
        """Go on with what the ended command left running: terminate, and kill no later than planned."""
        planned = [when for when, signum in self._steps if signum == signal.SIGKILL]
        if self.cause == "exited" or planned:
            kill_at = min([*planned, now + self._grace_s[1]])
            self._steps = [(now, signal.SIGTERM), (kill_at, signal.SIGKILL)]
        else:
            self._steps = [(now, signal.SIGKILL)]

    def due(self, now: float) -> "List[int]":
        """Return the signals to send now."""
        due = [signum for when, signum in self._steps if when <= now]
        # The kill stays due: a process may have forked while the others were killed.
        self._steps = [step for step in self._steps if step[0] > now or step[1] == signal.SIGKILL]
        return due


class Signals:
    """The signals that this process got, read like data."""

    def __init__(self) -> None:
        self._reader, writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer)
        for signum in HANDLED:
            signal.signal(signum, lambda *_: None)

    def wait(self, timeout_s: float) -> "List[int]":
        """Return what arrived, waiting for the first."""
        ready, _, _ = select.select([self._reader], [], [], timeout_s)
        return list(os.read(self._reader, 4096)) if ready else []
