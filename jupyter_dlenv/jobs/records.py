"""The record of each job: one folder, of which only ``run/`` is shown to the job itself.

``record.json`` is written once before the start, ``started.json`` when the engine has accepted it, ``final.json`` once
at the end; ``intent.json`` says that the owner stopped it; ``waiting.json`` is there while it waits for GPUs. All five
lie outside what the container can write.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..atomic import write_text
from ..errors import JobNotFound
from ..i18n import _
from ..paths import jobs_dir
from ..spec import JobState, JobStatus, Reason, from_json, require_id, status_from_json, to_json

_RECORD, _STARTED, _FINAL, _INTENT, _RUN = "record.json", "started.json", "final.json", "intent.json", "run"
_WAITING = "waiting.json"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class JobRecord:
    """What was submitted, for people and for history; values of ``-e KEY`` are not in it.

    Attributes:
        command: What the user asked to run, as one line.
        memory_bytes: Memory limit per node, 0 for none.
        timeout_s: Time limit, None for none.
        created_at: Seconds since the epoch.
    """

    id: str
    name: str
    owner: str
    engine: str
    command: str
    launcher: str
    nproc: int
    image: str = ""
    environment: str = ""
    kernel: str = ""
    memory_bytes: int = 0
    timeout_s: float | None = None
    created_at: float = field(default_factory=time.time)


@dataclass(frozen=True)
class Final:
    """How a job ended.

    Attributes:
        traceback: The failing rank's, empty when there is none.
        failed_rank: None when no rank failed or it is not known.
    """

    status: JobStatus
    traceback: str = ""
    failed_rank: int | None = None


class JobFolder:
    """One job's folder.

    Args:
        job_id: Canonical UUID; anything else is refused before it becomes a path.
    """

    def __init__(self, job_id: str) -> None:
        self.path = jobs_dir() / require_id(job_id)
        self.run = self.path / _RUN

    def create(self, record: JobRecord) -> bool:
        """Make the folder with its record; False when the job exists already."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            self.path.mkdir(mode=0o700)
        except FileExistsError:
            return False
        write_text(self.path / _RECORD, json.dumps(asdict(record), ensure_ascii=False))
        return True

    def record(self) -> JobRecord:
        """Return what was submitted.

        Raises:
            JobNotFound: There is no such job.
        """
        try:
            return from_json(JobRecord, json.loads((self.path / _RECORD).read_text()))
        except FileNotFoundError:
            raise job_not_found(self.path.name) from None

    def mark_started(self, native_id: str) -> None:
        """Note that the engine accepted the job, so that one it no longer knows is lost and not still to come."""
        write_text(self.path / _STARTED, json.dumps({"native_id": native_id, "boot_id": boot_id()}))

    def rebooted(self) -> bool:
        """True when the host was started again after the engine had accepted the job."""
        try:
            started = json.loads((self.path / _STARTED).read_text())
        except FileNotFoundError:
            return False
        return bool(started.get("boot_id")) and started["boot_id"] != boot_id()

    def keep_waiting(self, data: Mapping[str, Any]) -> None:
        """Note what somebody needs who starts the job later."""
        write_text(self.path / _WAITING, json.dumps(dict(data), ensure_ascii=False))

    def waiting(self) -> dict[str, Any] | None:
        """Return what was noted, None for a job that waits for nothing."""
        try:
            return dict(json.loads((self.path / _WAITING).read_text()))
        except FileNotFoundError:
            return None

    def waits_no_more(self) -> None:
        """Forget what was noted."""
        (self.path / _WAITING).unlink(missing_ok=True)

    def started(self) -> bool:
        """True once the engine has accepted the job."""
        return (self.path / _STARTED).exists()

    def final(self) -> Final | None:
        """Return how the job ended, None while it has not."""
        try:
            data = json.loads((self.path / _FINAL).read_text())
        except FileNotFoundError:
            return None
        return Final(status_from_json(data["status"]), data["traceback"], data["failed_rank"])

    def finish(self, final: Final) -> Final:
        """Write how the job ended and return it; where another process was first, its word stands."""
        descriptor, temporary = tempfile.mkstemp(dir=self.path, prefix=".final.")
        with os.fdopen(descriptor, "w") as file:
            json.dump(to_json(final), file)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, self.path / _FINAL)
        except FileExistsError:
            return self.final() or final
        finally:
            os.unlink(temporary)
        return final

    def intend_stop(self) -> None:
        """Note that the owner stopped the job, before the engine is told."""
        write_text(self.path / _INTENT, json.dumps({"stop": time.time()}))

    def stop_intended(self) -> bool:
        """True when the owner stopped the job."""
        return (self.path / _INTENT).exists()

    def remove(self) -> None:
        """Remove the record and the log."""
        shutil.rmtree(self.path)


def boot_id() -> str:
    """Return what tells one start of the host from the next, empty where it is not told."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""


def job_not_found(job_id: str) -> JobNotFound:
    """Return the error for an id that is nobody's, or somebody else's."""
    return JobNotFound(_("There is no job {id}.").format(id=job_id), hint="jupyter dlenv jobs")


def every_job() -> Iterator[JobFolder]:
    """Yield the folders of all recorded jobs."""
    if jobs_dir().is_dir():
        for path in jobs_dir().iterdir():
            if (path / _RECORD).is_file():
                yield JobFolder(path.name)


def job_json(record: JobRecord, final: Final | None, status: JobStatus, log: tuple[Path, int]) -> dict[str, Any]:
    """Return a job as the REST contract describes it. Pure."""
    shown: Mapping[str, Any] = to_json(status)
    return {
        **asdict(record),
        **shown,
        "traceback": final.traceback if final else "",
        "failed_rank": final.failed_rank if final else None,
        "log_path": str(log[0]),
        "log_bytes": log[1],
    }


def lost() -> JobStatus:
    """Return the status of a job that the engine no longer knows and that left no result."""
    message = _("Its container was removed from outside, and it left no result.")
    return JobStatus(JobState.LOST, reason=Reason.REMOVED, message=message)


def rebooted() -> JobStatus:
    """Return the status of a job that a restart of its host ended."""
    message = _("The host was restarted while it ran.")
    return JobStatus(JobState.FAILED, reason=Reason.REBOOT, message=message)
