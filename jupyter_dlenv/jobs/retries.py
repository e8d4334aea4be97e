"""When a failed job is tried again, and what is said of it meanwhile. Pure."""

from __future__ import annotations

import time

from ..i18n import _
from ..spec import JobState, JobStatus, Reason
from .records import Final, JobFolder, JobRecord

_LONGEST_S = 60.0
_NEVER_RAN = (125, 126, 127)
_AS_WANTED = (Reason.STOPPED, Reason.TIMEOUT)


def tried_again(record: JobRecord, final: Final, attempt: int) -> bool:
    """Return whether another attempt follows one that ended so."""
    status = final.status
    failed = status.state in (JobState.FAILED, JobState.LOST) and status.reason not in _AS_WANTED
    return failed and attempt <= record.retries and status.exit_code not in _NEVER_RAN


def pause_s(attempt: int) -> float:
    """Return how many seconds lie between a failed attempt and the next: twice as many each time, at most a minute."""
    return min(2.0 ** (attempt - 1), _LONGEST_S)


def due_at(ended: list[Final]) -> float:
    """Return when the next attempt may start, in seconds since the epoch."""
    return (ended[-1].status.finished_at or 0) + pause_s(len(ended)) if ended else 0.0


def began_at(ended: list[Final]) -> float | None:
    """Return when the first of several attempts began, None where none has."""
    return ended[0].status.started_at if ended else None


def between_attempts(folder: JobFolder, record: JobRecord) -> JobStatus | None:
    """Return the status of a job whose next attempt is about to start, None before its first attempt has ended."""
    ended = folder.ended_attempts()
    if not ended:
        return None
    left = max(due_at(ended) - time.time(), 0)
    message = _("Attempt {number} of {most} starts in {seconds:.0f} s. The one before: {message}")
    last = ended[-1].status.message or _("no reason is known")
    text = message.format(number=len(ended) + 1, most=record.retries + 1, seconds=left, message=last)
    return JobStatus(JobState.PENDING, message=text, attempt=len(ended) + 1)
