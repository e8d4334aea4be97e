"""One run of one command, from its launch to its result."""

import contextlib
import json
import os
import signal
import time

from .family import Family
from .files import LAUNCH, LAUNCHER_LOG, STOP, create, folder_of, hold_alive, read_json
from .limits import FINISH_S, GANG_S, LOOK_S, POLL_S
from .result import Result, count_oom_kills
from .signals import STOPPING, Ladder, Signals
from .start import CannotStart, environment, own_ip_wanted, raw, start, start_own, take_secrets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Optional, Tuple

    from .book import Book
    from .gang import Gang


class Supervisor:
    """One run of one command.

    Args:
        run_dir: The run folder that all replicas here share.
        index: Which of them this one is.
        launch: What it runs.
        signals: What this process is told.
    """

    def __init__(self, run_dir: bytes, index: int, launch: "Dict[str, Any]", signals: Signals) -> None:
        self._run_dir = run_dir
        self._folder = os.path.join(run_dir, folder_of(index).encode())
        self._launch = launch
        self._signals = signals
        self._ladder = Ladder(launch["grace_s"])
        self._interrupts = 0
        self._cause = "exited"
        self._looked_at = self._asked_at = 0.0
        self._poll_s = POLL_S[0]
        self._deadline = time.monotonic() + launch["timeout_s"] if launch.get("timeout_s") is not None else None
        self._result = Result(self._folder)
        self._index = index
        self._gang = _gang(run_dir, index, launch)
        self._opened: Optional[Book] = None

    @property
    def _book(self) -> "Book":
        if self._opened is None:
            from .book import Book, OwnLines  # the command is on its way when this is first asked for

            others = self._gang.launches() if self._gang else []
            self._opened = OwnLines(self._folder) if self._index else Book(self._run_dir, [self._launch, *others])
        return self._opened

    def run(self) -> int:
        """Run the command to its end, write all down, return the exit code."""
        started_at, oom_kills = time.time(), count_oom_kills()
        if self._launch.get("note") and not self._index:
            self._book.note(self._launch["note"])
        try:
            exit_code, signum = self._command()
        except CannotStart as error:
            self._book.note(str(error))
            exit_code, signum = error.exit_code, None
            self._tell_gang(exit_code)
        self._wait_for_gang()
        self._book.finish()
        result = {
            "exit_code": exit_code,
            "signal": signum,
            "cause": self._cause,
            "started_at": started_at,
            "finished_at": time.time(),
            **self._book.state(),
            "oom_kills": None if oom_kills is None else (count_oom_kills() or 0) - oom_kills,
        }
        self._write(result)
        return exit_code

    def _command(self) -> "Tuple[int, Optional[int]]":
        """Run the command and what it leaves behind; return its exit code and the signal that ended it."""
        family = self._start()
        self._attend(family)
        self._cause = self._ladder.cause
        exit_code, signum = _exit_code(family.status or 0)
        if self._cause == "done":
            exit_code = 0  # no more was wanted of it
        self._tell_gang(exit_code)
        self._end_leftovers(family)
        return exit_code, signum

    def _start(self) -> Family:
        """Start the command, once all peers are there."""
        secrets = take_secrets(self._folder)
        output = self._raw_log()
        outputs = None if output is None else (output, output)
        try:
            peers = self._launch.get("peers")
            if peers:
                waiting = Family(start_own(lambda: self._wait_for(peers), outputs))
                self._attend(waiting)
                if self._ladder.cause != "exited":
                    return waiting
            if own_ip_wanted(self._launch):
                self._fill_in_own_ip()
            return Family(self._begin(environment(self._launch, secrets), outputs))
        finally:
            if output is not None:
                os.close(output)

    def _begin(self, env: "Dict[bytes, bytes]", outputs: "Optional[Tuple[int, int]]") -> int:
        if not self._launch.get("processes"):
            return start([raw(arg) for arg in self._launch["argv"]], env, raw(self._launch["cwd"]), outputs)
        from .ranks import Ranks  # most launchers start their ranks themselves

        return start_own(Ranks(self._folder, self._launch, env).run, outputs)

    def _wait_for(self, peers: "Any") -> int:
        from .network import wait_for

        return wait_for(self._run_dir, int(self._launch.get("replicas") or 1), peers)

    def _fill_in_own_ip(self) -> None:
        from .network import own_address
        from .start import fill_in_own_ip

        fill_in_own_ip(self._launch, own_address(self._launch.get("peers") or ()))

    def _attend(self, family: Family) -> None:
        """Do what is asked until the command has ended."""
        while family.status is None:
            self._turn(family)
            if self._deadline is not None and time.monotonic() >= self._deadline:
                self._ladder.begin("timeout", time.monotonic())
            for signum in self._ladder.due(time.monotonic()):
                family.send(signum, everybody=signum == signal.SIGKILL)

    def _raw_log(self) -> "Optional[int]":
        """Return a descriptor for the command's output, None (ours, then) where the folder takes no file."""
        path = os.path.join(self._folder, LAUNCHER_LOG.encode())
        try:
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o644)
        except OSError as error:
            self._book.note(f"No raw log: {error.strerror}.")
            return None

    def _turn(self, family: Family) -> None:
        """Wait for something to happen, then do what it asks."""
        for signum in self._signals.wait(self._poll_s):
            self._obey(signum, family)
        family.reap()
        if time.monotonic() - self._looked_at > LOOK_S:
            self._looked_at = time.monotonic()
            self._look_for_stop()
            family.watch()
            self._look_at_gang()
        self._merge()

    def _merge(self) -> None:
        came, more = self._book.step()
        self._poll_s = 0 if more else POLL_S[0] if came else min(max(self._poll_s, POLL_S[0]) * 1.5, POLL_S[1])

    def _obey(self, signum: int, family: Family) -> None:
        if signum == signal.SIGCHLD:
            return
        if self._launch.get("forward_signals") or signum not in STOPPING:
            family.send(signum)
            return
        self._interrupts += signum == signal.SIGINT
        if self._interrupts > 1:
            self._ladder.kill("stopped", time.monotonic())
        else:
            self._ladder.begin("stopped", time.monotonic())

    def _look_for_stop(self) -> None:
        path = os.path.join(self._run_dir, STOP)
        if not os.path.lexists(path):
            return
        self._ladder.begin("stopped", time.monotonic())
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
            with os.fdopen(descriptor, "rb") as file:
                kill = file.read(16).strip() == b"kill"
        except OSError:
            return  # that it is there says enough
        if kill:
            self._ladder.kill("stopped", time.monotonic())

    def _look_at_gang(self) -> None:
        if self._gang and self._ladder.cause == "exited" and time.monotonic() - self._asked_at > GANG_S:
            self._asked_at = time.monotonic()
            cause = self._gang.look()
            if cause:
                if cause == "done" and self._gang.serves:
                    self._ladder.kill(cause, time.monotonic())  # it has nothing to save
                else:
                    self._ladder.begin(cause, time.monotonic(), gently=False)

    def _tell_gang(self, exit_code: int) -> None:
        if not self._gang:
            return
        if not exit_code:
            self._gang.succeeded()
        elif self._cause in ("exited", "timeout"):
            self._gang.failed()

    def _wait_for_gang(self) -> None:
        """Go on with the log, replica 0's task, until the other replicas have ended."""
        since, asked = time.monotonic(), 0
        while self._gang and not self._index and asked < 2 and self._gang.waiting(since):
            looked_at = time.monotonic()
            while time.monotonic() - looked_at < LOOK_S:
                got = [signum for signum in self._signals.wait(self._poll_s) if signum in STOPPING]
                if got:
                    create(os.path.join(self._run_dir, STOP))
                    asked += len(got)
                self._merge()

    def _end_leftovers(self, family: Family) -> None:
        """Terminate, then kill what the ended command left running."""
        left = family.members()
        if left and self._cause == "exited":
            self._book.note(f"Processes that the command left running were ended: {len(left)}.")
        self._ladder.leftovers(time.monotonic())
        give_up_at = time.monotonic() + sum(self._launch["grace_s"]) + FINISH_S
        while left and time.monotonic() < give_up_at:
            for signum in self._ladder.due(time.monotonic()):
                family.send(signum, everybody=True)
            self._turn(family)
            left = family.members()

    def _write(self, result: "Dict[str, Any]") -> None:
        """Write the result; what the folder refuses goes to whoever reads our own output."""
        lost = self._book.lost()
        if lost:
            _tell(f"the end of the log is lost: {lost}.")
        try:
            self._result.write(result)
        except OSError as error:
            _tell(f"the result {json.dumps(result)} is lost: {error.strerror}.")


def _gang(run_dir: bytes, index: int, launch: "Dict[str, Any]") -> "Optional[Gang]":
    if launch.get("replicas", 1) < 2:
        return None
    from .gang import Gang  # most jobs are one replica

    return Gang(run_dir, index, launch)


def _exit_code(status: int) -> "Tuple[int, Optional[int]]":
    if os.WIFSIGNALED(status):
        return 128 + os.WTERMSIG(status), os.WTERMSIG(status)
    return os.WEXITSTATUS(status), None


def _tell(text: str) -> None:
    """Say what the run folder cannot be told."""
    with contextlib.suppress(OSError):  # nobody listens
        os.write(2, f"dlenv: {text}\n".encode("utf-8", "surrogateescape"))


def main(run_dir: str, index: str = "0") -> int:
    """Run what launch.json says; return the exit code, 125 where there is nothing to run."""
    signals = Signals()
    folder = os.path.join(os.fsencode(run_dir), folder_of(int(index)).encode())
    try:
        launch = read_json(os.path.join(folder, LAUNCH))
    except (OSError, ValueError) as error:
        _tell(f"nothing to run: {error}")
        return 125
    hold_alive(folder)
    return Supervisor(os.fsencode(run_dir), int(index), launch, signals).run()
