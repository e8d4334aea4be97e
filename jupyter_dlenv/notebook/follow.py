"""Follows a job for a person: one display that changes in place in a notebook, plain lines elsewhere.

Standard library and IPython only, Python 3.8 syntax.
"""

import shutil
import time
from typing import Any, Callable, Dict, Optional

from ..errors import DLEnvError, JobFailed, JobInterrupted, JobNotFound
from ..i18n import _
from .client import Client, Frame
from .page import MIME as MIME
from .page import bundle, summary
from .page import state_line as state_line
from .tail import LAST_LINES as LAST_LINES
from .tail import LogTail as LogTail
from .terminal_text import clean as clean

_LATE_S = 30.0
_PERIOD_S = 0.25  # at most four updates a second


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
    """

    def __init__(self, write: Callable[[str], Any], columns: int = 0, say: Callable[[str], Any] = lambda text: None):
        self._write, self._columns, self._say = write, columns, say
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
            self._write(frame.data.decode("utf-8", "replace"))
        if bar and bar != self._bar:
            self._write(bar)
            self._bar = bar

    def _bar_of(self, frame: Frame) -> str:
        if frame.job is not None:
            return ""
        bars = [clean(line) for _rank, line in sorted(frame.open_lines.items())]
        return "  ".join(bars)[: max(self._columns - 1, 0)]


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


def until_ended(client: Client, job: Dict[str, Any], show: Callable[[Frame], None]) -> Dict[str, Any]:
    """Show a job's log until it has ended and return the job.

    An interrupt stops the job and goes on showing what it still writes; a second one kills it.

    Raises:
        JobInterrupted: The job was interrupted; it has ended by then.
    """
    cursor, interrupts = "", 0
    while True:
        try:
            for frame in client.follow(job["id"], cursor):
                cursor = frame.cursor
                show(frame)
                if frame.job is not None:
                    job = frame.job
            break
        except KeyboardInterrupt:
            interrupts += 1
            _stop(client, job["id"], force=interrupts > 1)
    if interrupts:
        raise JobInterrupted(_("Job {name} was stopped.").format(name=job["name"]))
    return job


def _stop(client: Client, job_id: str, *, force: bool) -> None:
    try:
        client.call("POST", f"/jobs/{job_id}/cancel", {"force": force})
    except KeyboardInterrupt:
        client.call("POST", f"/jobs/{job_id}/cancel", {"force": True})


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
