"""Follows a job for a person: one display that changes in place in a notebook, plain lines elsewhere.

Standard library and IPython only, Python 3.8 syntax.
"""

import shutil
import threading
import time
from functools import partial
from typing import Any, Callable, Dict, List, Optional

from ..errors import DLEnvError, EngineUnavailable, JobFailed, JobInterrupted, JobNotFound
from ..i18n import _
from ..spec import JobState
from .client import Client, Frame
from .page import MIME as MIME
from .page import bundle, summary
from .page import state_line as state_line
from .tail import LAST_LINES as LAST_LINES
from .tail import LogTail as LogTail
from .terminal_text import clean as clean

_LATE_S = 30.0
_PERIOD_S = 0.25  # at most four updates a second
_AWAY_S = 120.0  # as long as a kernel waits for the next owner, who serves its socket anew
_AGAIN_S = 0.5


def processes(job: Dict[str, Any]) -> int:
    """Return how many processes write a job's log; 0 when nobody says."""
    return int(job.get("nodes") or 0) * int(job.get("nproc") or 0)


class Display:
    """One output that is replaced as the job goes on.

    Args:
        publish: Called with the data, the transient data and whether to replace.
        metrics: Asked once, when the job has ended, for its table of metrics.
    """

    def __init__(
        self,
        job: Dict[str, Any],
        publish: Callable[..., None],
        metrics: Callable[[], Optional[Dict[str, Any]]] = lambda: None,
    ) -> None:
        self._job, self._publish, self._metrics = job, publish, metrics
        self._tail = LogTail(ranks=processes(job))
        self._id = f"dlenv-{job['id']}-{time.monotonic_ns()}"
        self._shown: Optional[float] = None

    def add(self, frame: Frame) -> None:
        """Take in a frame; show it when it holds the first line or the end, or a quarter of a second has passed."""
        first = bool(frame.data) and not self._tail.count
        self._tail.add(frame)
        attempt = frame.attempt or self._job.get("attempt")
        self._job = frame.job or {**self._job, "message": frame.message, "attempt": attempt}
        now = time.monotonic()
        if first or frame.job is not None or self._shown is None or now - self._shown >= _PERIOD_S:
            self._show(frame)
            self._shown = now

    def _show(self, frame: Frame) -> None:
        metrics = self._metrics() if frame.job is not None else None
        data = bundle(self._job, frame.state, frame.cursor, self._tail, time.time(), metrics)
        self._publish(data, transient={"display_id": self._id}, update=self._shown is not None)


class Lines:
    """Prints a log's lines as they are.

    Args:
        columns: Width of a terminal, whose last line then shows the progress bars; 0 for lines alone.
        say: Gets what a job waits for, each time it changes.
        write_bytes: Gets the lines themselves; without it they are decoded for ``write``.
    """

    def __init__(
        self,
        write: Callable[[str], Any],
        columns: int = 0,
        say: Callable[[str], Any] = lambda text: None,
        write_bytes: Optional[Callable[[bytes], Any]] = None,
    ) -> None:
        self._write, self._columns, self._say = write, columns, say
        self._write_bytes = write_bytes or (lambda data: write(data.decode("utf-8", "replace")))
        self._bar = self._said = ""

    def add(self, frame: Frame) -> None:
        """Print a frame's lines."""
        if frame.state == "PENDING" and frame.message != self._said:
            self._said = frame.message
            self._say(frame.message)
        bar = self._bar_of(frame)
        if self._bar and (frame.data or bar != self._bar):
            self._write("\r\x1b[K")
            self._bar = ""
        if frame.data:
            self._write_bytes(frame.data)
        if bar and bar != self._bar:
            self._write(bar)
            self._bar = bar

    def _bar_of(self, frame: Frame) -> str:
        if frame.job is not None:
            return ""
        bars = [clean(line) for _rank, line in sorted(frame.open_lines.items())]
        return "  ".join(bars)[: max(self._columns - 1, 0)]


def lines_on(stream: Any, columns: int = 0, say: Callable[[str], Any] = lambda text: None) -> Lines:
    """Return what prints a log on a stream: byte by byte where the stream takes bytes, which a notebook's does not."""
    raw = partial(_print_bytes, stream) if hasattr(stream, "buffer") else None
    return Lines(partial(print_on, stream), columns, say, raw)


def print_on(stream: Any, text: str) -> None:
    """Print text at once; a character that the stream's encoding lacks becomes a question mark, as wide as it was."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    stream.write(text.encode(encoding, "replace").decode(encoding))
    stream.flush()


def _print_bytes(stream: Any, data: bytes) -> None:
    stream.flush()  # text that was written before
    stream.buffer.write(data)
    stream.buffer.flush()


def terminal_columns(stream: Any) -> int:
    """Return the width of the terminal that a stream writes to, 0 when it writes to none."""
    return shutil.get_terminal_size().columns if stream.isatty() else 0


def submit(client: Client, request: Dict[str, Any]) -> Dict[str, Any]:
    """Submit a job and return it. An interrupt meanwhile stops the job, once it is there; a second one does not wait.

    Raises:
        JobInterrupted: It was interrupted, and has ended or, as it then says, may still start.
    """
    try:
        return dict(client.call("POST", "/jobs", request))
    except KeyboardInterrupt:
        job_id = request["request_id"]
        if _stopped_late(client, job_id):
            message = _("Job {name} was stopped.").format(name=job_id)
        else:
            message = _("Job {name} was not there to be stopped. It may still start: %dlstop {name}").format(
                name=job_id
            )
        raise JobInterrupted(message) from None


def _stopped_late(client: Client, job_id: str) -> bool:
    """Stop a job that may not be written down yet; return whether it was. An interrupt ends the wait."""
    until = time.monotonic() + _LATE_S
    try:
        while time.monotonic() < until:
            try:
                client.call("POST", f"/jobs/{job_id}/cancel", {"force": True})
                return True
            except JobNotFound:
                time.sleep(_PERIOD_S)
    except KeyboardInterrupt:
        pass
    return False


def has_ended(job: Dict[str, Any]) -> bool:
    """Tell whether a job's state is final."""
    return JobState(job["state"]).ended


class _Stops:
    """Stops a job from threads of their own, because what it still writes is shown meanwhile.

    Attributes:
        error: Why it could not be told to stop.
    """

    def __init__(self, client: Client, job_id: str) -> None:
        self._client, self._path = client, f"/jobs/{job_id}/cancel"
        self._threads: List[threading.Thread] = []
        self.error: Optional[DLEnvError] = None

    def ask(self, times: int) -> None:
        """Ask until the job was asked so many times; all but the first kill it."""
        while len(self._threads) < times:
            thread = threading.Thread(target=self._ask, args=(bool(self._threads),), daemon=True)
            thread.start()
            self._threads.append(thread)

    def _ask(self, force: bool) -> None:
        try:
            self._client.call("POST", self._path, {"force": force})
        except DLEnvError as error:
            self.error = error

    def settle(self) -> None:
        """Wait for the answers about an ended job: they come when nothing is left of it. An interrupt ends the wait."""
        try:
            for thread in self._threads:
                thread.join(_LATE_S)
        except KeyboardInterrupt:
            pass


class _Log:
    """A job's log, shown as far as it was read.

    Attributes:
        job: As it was known last.
        ended: Whether the log was shown to its end.
    """

    def __init__(self, client: Client, job: Dict[str, Any], show: Callable[[Frame], None]) -> None:
        self.job, self.ended = job, False
        self._client, self._show = client, show
        self._cursor, self._away_s = "", 0.0

    def go_on(self, leave: Callable[[], bool]) -> None:
        """Show it from where it was left, until the job has ended, the service went away or somebody wants to leave.

        Raises:
            EngineUnavailable: The service stays away.
        """
        try:
            for frame in self._client.follow(self.job["id"], self._cursor):
                if frame.cursor != self._cursor:
                    self._cursor, self._away_s = frame.cursor, 0.0
                self._show(frame)
                if frame.job is not None:
                    self.job, self.ended = frame.job, has_ended(frame.job)
                if leave():
                    return
        except EngineUnavailable as error:
            self._wait(error)

    def _wait(self, error: EngineUnavailable) -> None:
        """Wait a moment before the log is asked for again: the job needs no service, and the next one has its log."""
        if self._away_s >= _AWAY_S:
            raise EngineUnavailable(
                _("Job {name} goes on, but its log cannot be read: {error}").format(
                    name=self.job["name"], error=error.message
                ),
                hint="%dlattach {id}, jupyter dlenv logs --follow {id}".format(id=self.job["id"]),
            ) from error
        self._away_s += _AGAIN_S
        time.sleep(_AGAIN_S)


def until_ended(client: Client, job: Dict[str, Any], show: Callable[[Frame], None]) -> Dict[str, Any]:
    """Show a job's log until it has ended and return the job. A service that goes away meanwhile is waited for.

    An interrupt stops the job and goes on showing what it still writes; a second one kills it.

    Raises:
        JobInterrupted: The job was interrupted, and has ended or, as it then says, may go on.
        EngineUnavailable: The service stays away; the job goes on.
    """
    log, stops, interrupts = _Log(client, job, show), _Stops(client, job["id"]), 0
    while not log.ended:
        try:
            stops.ask(interrupts)
            log.go_on(lambda: stops.error is not None)
        except KeyboardInterrupt:
            interrupts += 1
            continue
        if stops.error is not None and not log.ended:
            raise JobInterrupted(
                _("Job {name} was not stopped and may go on ({error}). To stop it: %dlstop {id}").format(
                    name=job["name"], error=stops.error.message, id=job["id"]
                )
            )
    if interrupts:
        stops.settle()
        raise JobInterrupted(_("Job {name} was stopped.").format(name=job["name"]))
    return log.job


def metrics_of(client: Client, job_id: str) -> Optional[Dict[str, Any]]:
    """Return a job's table of metrics, None where there is none to be had."""
    try:
        found = client.call("GET", f"/jobs/{job_id}/metrics")
    except DLEnvError:  # an older server has none, and a drawing is worth no failure
        return None
    return dict(found) if found and found["rows"] else None


def raise_for_state(job: Dict[str, Any]) -> None:
    """Raise when a job did not succeed.

    Raises:
        JobFailed: Holds the exit code and the failing rank's traceback.
    """
    if job["state"] != "SUCCEEDED":
        raise JobFailed(summary(job))
