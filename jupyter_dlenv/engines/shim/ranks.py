"""The processes of a replica where no launcher starts them: side by side, with raw files of their own."""

import contextlib
import os
import signal
import time

from .signals import Signals
from .start import CannotStart, raw, start

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Optional, Tuple

GRACE_S = 5.0
IDLE_S = 60.0


class Ranks:
    """Runs them until all have ended; the first that fails ends the others.

    Args:
        folder: The replica's run folder.
        launch: What launch.json says.
        env: Their environment, without what each of them has on top.
    """

    def __init__(self, folder: bytes, launch: "Dict[str, Any]", env: "Dict[bytes, bytes]") -> None:
        self._folder = folder
        self._processes = launch["processes"]
        self._env = env
        self._cwd = raw(launch["cwd"])
        self._first_rank = int(launch.get("first_rank") or 0)
        self._leads = launch.get("ends") == "leader" and not self._first_rank
        self._living: Dict[int, int] = {}  # numbers by process id
        self._exit_code: Optional[int] = None
        self._asked = False
        self._kill_at: Optional[float] = None

    def run(self) -> int:
        """Return the exit code of the first that failed, 0 where none did."""
        signals = Signals()
        for number in range(len(self._processes)):
            if self._exit_code is None:
                self._start(number)
        while self._living:
            for signum in signals.wait(self._patience_s()):
                if signum != signal.SIGCHLD:
                    self._asked = True
                    self._send(signum)
            self._reap()
            if self._kill_at is not None and time.monotonic() >= self._kill_at:
                self._send(signal.SIGKILL)
        return self._exit_code or 0

    def _start(self, number: int) -> None:
        process = self._processes[number]
        env = dict(self._env)
        env.update((raw(key), raw(value)) for key, value in process.get("env", {}).items())
        outputs = self._outputs(number)
        try:
            self._living[start([raw(arg) for arg in process["argv"]], env, self._cwd, outputs)] = number
        except CannotStart as error:
            _say(str(error))
            self._failed(number, error.exit_code)
        for descriptor in outputs or ():
            os.close(descriptor)

    def _outputs(self, number: int) -> "Optional[Tuple[int, int]]":
        """Return descriptors of a process's raw files, None (ours, then) where the folder takes no file."""
        folder = os.path.join(self._folder, b"ranks", b"%d" % number)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        try:
            os.makedirs(folder, mode=0o700, exist_ok=True)
            paths = [os.path.join(folder, name) for name in (b"stdout.log", b"stderr.log")]
            opened = [os.open(path, flags, 0o644) for path in paths]
        except OSError as error:
            _say(f"No raw files for {self._name(number)}: {error.strerror}.")
            return None
        return opened[0], opened[1]

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return
                if pid in self._living:
                    self._ended(self._living.pop(pid), status)

    def _ended(self, number: int, status: int) -> None:
        code = 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        if self._kill_at is not None or self._exit_code is not None:
            return  # we ended it, or it followed the first
        if code:
            self._failed(number, code)
        elif self._done(number):
            self._kill_servers()
            self._stop_others()

    def _done(self, ended: int) -> bool:
        """Tell whether no more is wanted now that one ended well."""
        wanted = {number for number, process in enumerate(self._processes) if not process.get("serves")}
        return (self._leads and ended == 0) or (bool(wanted) and not wanted & set(self._living.values()))

    def _failed(self, number: int, code: int) -> None:
        self._exit_code = code
        if not self._asked:
            _say(f"{self._name(number)} failed first: exit code {code}")
            self._stop_others()

    def _name(self, number: int) -> str:
        name = self._processes[number].get("name")
        return f"rank {self._first_rank + number}" + (f" ({name})" if name else "")

    def _stop_others(self) -> None:
        self._kill_at = time.monotonic() + GRACE_S
        self._send(signal.SIGTERM)

    def _kill_servers(self) -> None:
        """End what only serves, at once: it has nothing to save, and some call the gentler way a fatal error."""
        self._send(
            signal.SIGKILL, [pid for pid, number in self._living.items() if self._processes[number].get("serves")]
        )

    def _send(self, signum: int, pids: "Optional[List[int]]" = None) -> None:
        for pid in self._living if pids is None else pids:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signum)

    def _patience_s(self) -> float:
        if self._kill_at is None:
            return IDLE_S
        return min(max(self._kill_at - time.monotonic(), 0.05), IDLE_S)


def _say(text: str) -> None:
    with contextlib.suppress(OSError):
        os.write(1, f"[dlenv] {text}\n".encode("utf-8", "surrogateescape"))
