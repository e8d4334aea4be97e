"""Follows a job for a person: one display that changes in place in a notebook, plain lines elsewhere.

Standard library and IPython only, Python 3.8 syntax.
"""

import re
import shutil
import time
from collections import deque
from typing import Any, Callable, Deque, Dict, Optional

from ..errors import JobFailed, JobInterrupted, JobNotFound
from ..i18n import _
from .client import Client, Frame

MIME = "application/vnd.jupyter-dlenv.job+json"
LAST_LINES = 200
_LATE_S = 3.0
_PERIOD_S = 0.25  # at most four updates a second
_LINE_LIMIT = 2000
_CONTROL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07]*\x07|[\x00-\x08\x0b-\x1f\x7f]")


def clean(text: str) -> str:
    """Return a line as a terminal would leave it: after the last carriage return, without control sequences."""
    shown = text.rstrip("\r").rpartition("\r")[2]
    return _CONTROL.sub("", shown)[:_LINE_LIMIT]


class LogTail:
    """The last lines of a log and the progress bars below them."""

    def __init__(self, most: int = LAST_LINES) -> None:
        self._lines: Deque[str] = deque(maxlen=most)
        self._open: Dict[str, str] = {}
        self.count = 0

    def add(self, frame: Frame) -> None:
        """Take in a frame."""
        lines = frame.data.decode("utf-8", "replace").split("\n")
        if lines and not lines[-1]:
            lines.pop()
        self.count += len(lines)
        self._lines.extend(lines[-(self._lines.maxlen or 0) :])
        self._open = dict(frame.open_lines)

    def text(self) -> str:
        """Return what to show."""
        bars = [line if rank in ("0", "launcher") else f"[{rank}] {line}" for rank, line in sorted(self._open.items())]
        return "\n".join(clean(line) for line in [*self._lines, *bars])


def state_line(job: Dict[str, Any], state: str, now: float) -> str:
    """Return one line that says where a job stands."""
    begin, end = job.get("started_at") or job["created_at"], job.get("finished_at") or now
    place = job["image"] or _("plain processes, no container")
    words = [job["name"], state, f"{max(end - begin, 0):.1f} s", place, job["id"]]
    if state == "PENDING" and job.get("message"):
        words.insert(2, job["message"])
    code = job.get("exit_code")
    if code is not None and job["state"] == state:
        words.insert(2, _("exit code {code}").format(code=code))
    return " · ".join(words)


def summary(job: Dict[str, Any]) -> str:
    """Return how a failed job ended: exit code first, then the failing rank's traceback."""
    head = _("Job {name} {state}: {message}").format(name=job["name"], state=job["state"], message=job["message"])
    if job.get("failed_rank") is not None:
        head += " " + _("Rank {rank} failed first.").format(rank=job["failed_rank"])
    where = _("Full log: {path}").format(path=job["log_path"])
    return "\n".join(part for part in (head, job.get("traceback", "").rstrip(), where) if part)


class Display:
    """One output that is replaced as the job goes on."""

    def __init__(self, job: Dict[str, Any], publish: Callable[..., None]) -> None:
        self._job, self._publish = job, publish
        self._tail = LogTail()
        self._id = f"dlenv-{job['id']}-{time.monotonic_ns()}"
        self._shown: Optional[float] = None

    def add(self, frame: Frame) -> None:
        """Take in a frame; show it when it holds the first line or the end, or a quarter of a second has passed."""
        first = bool(frame.data) and not self._tail.count
        self._tail.add(frame)
        self._job = frame.job or {**self._job, "message": frame.message}
        now = time.monotonic()
        if first or frame.job is not None or self._shown is None or now - self._shown >= _PERIOD_S:
            self._show(frame)
            self._shown = now

    def _show(self, frame: Frame) -> None:
        ended = frame.job is not None and frame.job["state"] == "FAILED"
        parts = [state_line(self._job, frame.state, time.time())]
        parts += [summary(self._job), ""] if ended else []
        skipped = self._tail.count - LAST_LINES
        parts += [_("… {count} earlier lines: {path}").format(count=skipped, path=self._job["log_path"])] * (
            skipped > 0
        )
        data = {
            "text/plain": "\n".join([*parts, self._tail.text()]).rstrip(),
            MIME: {
                "job_id": self._job["id"],
                "cursor": frame.cursor,
                "state": frame.state,
                "name": self._job["name"],
            },
        }
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
    """Submit a job and return it. An interrupt meanwhile stops the job, whether it had got anywhere or not.

    Raises:
        JobInterrupted: It was interrupted.
    """
    try:
        return dict(client.call("POST", "/jobs", request))
    except KeyboardInterrupt:
        until = time.monotonic() + _LATE_S
        while time.monotonic() < until:
            try:
                _stop(client, request["request_id"], force=True)
                break
            except JobNotFound:
                time.sleep(_PERIOD_S)  # it is not written down yet
        raise JobInterrupted(_("Job {name} was stopped.").format(name=request["request_id"])) from None


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


def raise_for_state(job: Dict[str, Any]) -> None:
    """Raise when a job did not succeed.

    Raises:
        JobFailed: Holds the exit code and the failing rank's traceback.
    """
    if job["state"] != "SUCCEEDED":
        raise JobFailed(summary(job))
