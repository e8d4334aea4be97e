"""The record of each job: one folder, of which only the run folder of an attempt is shown to the job itself.

``record.json`` is written once before the start, ``started.json`` when the engine has accepted an attempt,
``ended-N.json`` when attempt N has failed and another one follows, ``final.json`` once at the end; ``intent.json`` says
that the owner stopped it; ``waiting.json`` is what somebody needs who starts it later, now or for another attempt; in
``code`` lies the code that it was submitted with. All of them lie outside what the container can write.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..atomic import write_text
from ..errors import DLEnvError, JobNotFound
from ..i18n import _
from ..paths import jobs_dir
from ..spec import JobState, JobStatus, from_json, is_id, new_id, require_id, status_from_json, to_json
from .host import boot_id, is_here, this_host

_LOCK, _DEBUGGER = "starting.lock", "debugger.txt"
_RESERVE, _RESERVED = "reserve", 1 << 14
"""Room on the disk for how the job ended."""
_RECORD, _STARTED, _FINAL, _INTENT = "record.json", "started.json", "final.json", "intent.json"
_WAITING, _CODE, _CODE_NOTE, _METRICS = "waiting.json", "code", "code.txt", "metrics.csv"


@dataclass(frozen=True)
class JobRecord:
    """What was submitted, for people and for history; values of ``-e KEY`` are not in it.

    Attributes:
        command: What the user asked to run, as one line.
        options: What was asked for beside that, by the names of the API.
        secrets: Names of the variables whose values were handed on by ``-e KEY``.
        image_id: The image's own ID, ``sha256:...``.
        commit: Git commit of the script's folder, empty where it is in no repository.
        gpus: What was asked for, such as ``2``.
        nproc: Processes on each node.
        nodes: Number of nodes, ``replicas`` of them on this host, of which the first has the rank ``node_rank``.
        first_ranks: For each of these the rank of its first process in the whole job.
        gpus_per_node: How many that is where a number was asked for.
        rank_logs, rank_part: Where raw files of ranks appear, as :class:`~jupyter_dlenv.spec.RankLogs` says it.
        memory_bytes: Memory limit per node, 0 for none.
        shm_bytes: Size of /dev/shm, 0 where nothing was asked for.
        timeout_s: Time limit, None for none.
        retries: How many more attempts a failure has.
        plot: Patterns of metrics in the log.
        notify: What runs on the host when the job has ended.
        created_at: Seconds since the epoch.
        host: Where it was submitted, as :func:`.host.this_host` says it.
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
    options: Mapping[str, Any] = field(default_factory=dict)
    secrets: tuple[str, ...] = ()
    cwd: str = ""
    image_id: str = ""
    commit: str = ""
    gpus: str = ""
    nodes: int = 1
    replicas: int = 1
    node_rank: int = 0
    first_ranks: tuple[int, ...] = (0,)
    gpus_per_node: int = 0
    network: str = ""
    shm_bytes: int = 0
    mounts: tuple[str, ...] = ()
    rank_logs: str = ""
    rank_part: int = -2
    retries: int = 0
    plot: tuple[str, ...] = ()
    notify: str = ""
    host: Mapping[str, str] = field(default_factory=this_host)

    @property
    def here(self) -> bool:
        """True where this host looks after the job; what another host knows of its own is unknown here."""
        return is_here(self.host, plain=self.engine == "process")


@dataclass(frozen=True)
class Final:
    """How a job, or one attempt of it, ended.

    Attributes:
        traceback: The failing rank's, empty when there is none.
        failed_rank, failed_node: None when none failed or it is not known.
        cause: Its id in the catalogue of causes, empty when none fits.
        evidence: The line of the log that tells it.
        remedy: What helps.
        log_bytes: Size of the attempt's log.
    """

    status: JobStatus
    traceback: str = ""
    failed_rank: int | None = None
    failed_node: int | None = None
    cause: str = ""
    evidence: str = ""
    remedy: str = ""
    log_bytes: int = 0


class JobFolder:
    """One job's folder.

    Args:
        job_id: Canonical UUID; anything else is refused before it becomes a path.
    """

    def __init__(self, job_id: str) -> None:
        self.path = jobs_dir() / require_id(job_id)

    @property
    def attempt(self) -> int:
        """The attempt that runs, waits, or was the last one; the first is 1."""
        ended = 0
        while (self.path / _ended(ended + 1)).exists():
            ended += 1
        return ended + 1

    @property
    def run(self) -> Path:
        """The run folder of that attempt."""
        return self.run_of(self.attempt)

    @property
    def code(self) -> Path:
        """The code that the job was submitted with, where it was kept."""
        return self.path / _CODE

    @property
    def metrics(self) -> Path:
        """The table of metrics that were found in the log."""
        return self.path / _METRICS

    def run_of(self, attempt: int) -> Path:
        """Return the run folder of one attempt."""
        return self.path / ("run" if attempt == 1 else f"run-{attempt}")

    def create(self, record: JobRecord) -> bool:
        """Make the folder with its record; False when the job exists already."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            self.path.mkdir(mode=0o700)
        except FileExistsError:
            return False
        try:
            write_text(self.path / _RESERVE, " " * _RESERVED, durable=False)
            write_text(self.path / _RECORD, json.dumps(asdict(record)))
        except OSError:
            self.remove()  # nobody could tell what it is
            raise
        return True

    def record(self) -> JobRecord:
        """Return what was submitted.

        Raises:
            JobNotFound: There is no such job.
            DLEnvError: It is damaged, or another version wrote it.
        """
        data = self._json(_RECORD)
        if data is None:
            raise job_not_found(self.path.name)
        try:
            return from_json(JobRecord, data)
        except DLEnvError as error:
            message = _("The record of job {id} cannot be read: it is damaged, or of another version.")
            raise DLEnvError(message.format(id=self.path.name), hint=str(self.path / _RECORD)) from error

    def _json(self, name: str) -> dict[str, Any] | None:
        """Return what a file holds, None where there is none; nothing where it is damaged, so that others are told."""
        try:
            return dict(json.loads((self.path / name).read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (TypeError, ValueError):
            return {}

    @contextmanager
    def starting(self) -> Iterator[bool]:
        """Hold the right to start the current attempt; False where another process has it, or has used it."""
        descriptor = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            yield _locked(descriptor) and not self.started() and self.final() is None
        finally:
            os.close(descriptor)

    def mark_started(self, native_id: str, gpus: Sequence[str] = ()) -> None:
        """Note that the engine accepted the attempt, so that one it no longer knows is lost and not still to come.

        Args:
            gpus: The UUIDs of its GPUs.
        """
        started = {"native_id": native_id, "boot_id": boot_id(), "attempt": self.attempt, "gpus": list(gpus)}
        write_text(self.path / _STARTED, json.dumps(started))

    def started(self) -> bool:
        """True once the engine has accepted the attempt."""
        return bool(self._started())

    def gpus(self) -> tuple[str, ...]:
        """Return the UUIDs of the GPUs that the attempt was started with."""
        return tuple(self._started().get("gpus", ()))

    def rebooted(self) -> bool:
        """True when the host was started again after the engine had accepted the attempt."""
        started = self._started()
        return bool(started.get("boot_id")) and started["boot_id"] != boot_id()

    def _started(self) -> dict[str, Any]:
        started = self._json(_STARTED)
        if started is None:
            return {}
        if not started:
            return {"native_id": ""}  # damaged: what may have been started is not started a second time
        return started if started.get("attempt", 1) == self.attempt else {}

    def pauses(self) -> bool:
        """True between two attempts."""
        return self.attempt > 1 and self.waiting() is not None

    def note_code(self, text: str) -> None:
        """Note what is said of the copy of the job's code."""
        write_text(self.path / _CODE_NOTE, text)

    def code_note(self) -> str:
        """Return what was noted, empty where nothing was."""
        return self._text(_CODE_NOTE)

    def note_debugger(self, text: str) -> None:
        """Note how the rank is reached that waits for a debugger."""
        write_text(self.path / _DEBUGGER, text)

    def debugger_note(self) -> str:
        """Return what was noted, empty where nothing was."""
        return self._text(_DEBUGGER)

    def _text(self, name: str) -> str:
        try:
            return (self.path / name).read_text(encoding="utf-8")
        except FileNotFoundError:
            return ""

    def keep_waiting(self, data: Mapping[str, Any]) -> None:
        """Note what somebody needs who starts the job later."""
        write_text(self.path / _WAITING, json.dumps(dict(data)))

    def kept(self) -> dict[str, Any] | None:
        """Return what was noted for whoever starts the job later, None where nothing is."""
        return self._json(_WAITING)

    def waiting(self) -> dict[str, Any] | None:
        """Return what was noted of a job that waits to be started, None for any other."""
        data = self.kept()
        return None if data is None or self.started() else data

    def waits_no_more(self) -> None:
        """Forget what was noted."""
        (self.path / _WAITING).unlink(missing_ok=True)

    def final(self) -> Final | None:
        """Return how the job ended, None while it has not."""
        return self._final(_FINAL)

    def ended_attempts(self) -> list[Final]:
        """Return how the attempts before this one ended."""
        found = (self._final(_ended(number)) for number in range(1, self.attempt))
        return [final for final in found if final is not None]

    def _final(self, name: str) -> Final | None:
        data = self._json(name)
        if data is None:
            return None
        try:
            return from_json(Final, {**data, "status": status_from_json(data["status"])})
        except (DLEnvError, TypeError, ValueError, LookupError):
            message = _("It has ended, and how cannot be read: {file} is damaged, or of another version.")
            return Final(JobStatus(JobState.LOST, message=message.format(file=self.path / name)))

    def finish(self, final: Final) -> Final:
        """Write how the job ended and return it; where another process was first, its word stands."""
        written = self._put(_FINAL, final)
        (self.path / _RESERVE).unlink(missing_ok=True)
        return final if written else self.final() or final

    def end_attempt(self, attempt: int, final: Final) -> bool:
        """Write how an attempt ended that another one follows; False where another process was first."""
        return self._put(_ended(attempt), final)

    def _put(self, name: str, final: Final) -> bool:
        """Write an end under a name that is free; False where it is taken. A full disk cannot prevent it."""
        try:
            return self._link(self._written(json.dumps(to_json(final))), name)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
        short = replace(final, traceback=final.traceback[-_RESERVED // 4 :], evidence=final.evidence[: _RESERVED // 8])
        return self._link(self._written_in_reserve(json.dumps(to_json(short))), name)

    def _written(self, text: str) -> str:
        temporary = self.path / f".final.{new_id()}"
        write_text(temporary, text)
        return str(temporary)

    def _written_in_reserve(self, text: str) -> str:
        with open(self.path / _RESERVE, "r+", encoding="utf-8") as file:
            file.write(text[:_RESERVED].ljust(_RESERVED))
            file.flush()
            os.fsync(file.fileno())
        return str(self.path / _RESERVE)

    def _link(self, temporary: str, name: str) -> bool:
        try:
            os.link(temporary, self.path / name)
        except FileExistsError:
            return False
        finally:
            os.unlink(temporary)
        return True

    def intend_stop(self) -> None:
        """Note that the owner stopped the job, before the engine is told."""
        write_text(self.path / _INTENT, json.dumps({"stop": time.time()}))

    def stop_intended(self) -> bool:
        """True when the owner stopped the job."""
        return (self.path / _INTENT).exists()

    def remove(self) -> None:
        """Remove the record and the log."""
        shutil.rmtree(self.path)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _ended(attempt: int) -> str:
    return f"ended-{attempt}.json"


def job_not_found(job_id: str) -> JobNotFound:
    """Return the error for an id that is nobody's, or somebody else's."""
    return JobNotFound(_("There is no job {id}.").format(id=job_id), hint="jupyter dlenv jobs")


def job_ids() -> list[str]:
    """Return the ids of all recorded jobs, and perhaps of some that are just being made or removed."""
    try:
        with os.scandir(jobs_dir()) as entries:
            return [entry.name for entry in entries if is_id(entry.name)]
    except FileNotFoundError:
        return []


def every_job() -> Iterator[JobFolder]:
    """Yield the folders of all recorded jobs."""
    for job_id in job_ids():
        folder = JobFolder(job_id)
        if (folder.path / _RECORD).is_file():
            yield folder


def readable(folder: JobFolder) -> JobRecord | None:
    """Return a job's record, None where it is damaged or gone: one must not keep the others from being told."""
    try:
        return folder.record()
    except (DLEnvError, OSError):
        return None
