"""Waits on a node for the command that ``rsh.py`` leaves on another one, runs it, and says how it ended."""

import contextlib
import os
import signal
import subprocess
import sys
import time

POLL_S = 0.05
GRACE_S = 5.0


class Node:
    """A node by the name that others call it."""

    def __init__(self, folder: str, name: str) -> None:
        self._path = os.path.join(folder, name)
        self._signal = 0
        for signum in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, self._note)

    def _note(self, signum: int, _frame: object) -> None:
        self._signal = signum

    def serve(self) -> int:
        """Run the command that comes; return 0, because its exit code is for whoever sent it, or a signal's code."""
        while not self._signal and not os.path.exists(f"{self._path}.command"):
            time.sleep(POLL_S)
        if not self._signal:
            with open(f"{self._path}.command", encoding="utf-8", errors="surrogateescape") as file:
                self._tell(self._run(file.read()))
        return 128 + self._signal if self._signal else 0

    def _tell(self, exit_code: int) -> None:
        with open(f"{self._path}.new", "w", encoding="ascii") as file:
            file.write(str(exit_code))
        os.rename(f"{self._path}.new", f"{self._path}.exit")

    def _run(self, command: str) -> int:
        process = subprocess.Popen(["/bin/sh", "-c", command], stdin=subprocess.DEVNULL, start_new_session=True)
        kill_at = 0.0
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = process.wait(POLL_S)
                return 128 - code if code < 0 else code
            now = time.monotonic()
            if not kill_at and (self._signal or os.path.exists(f"{self._path}.stop")):
                kill_at = now + GRACE_S
                _end(process.pid, self._signal or signal.SIGTERM)
            elif kill_at and now > kill_at:
                _end(process.pid, signal.SIGKILL)


def _end(session: int, signum: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(session, signum)


if __name__ == "__main__":
    sys.exit(Node(*sys.argv[1:]).serve())
