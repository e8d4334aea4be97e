"""Jobs that wait for GPUs: what is kept of them, and who starts them when it is their turn.

Any process of the same user may do that, whichever is alive: a Jupyter server, a process that follows a job of its own,
or ``jupyter dlenv agent``. Each says so in the ledger.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import threading
import time
from collections.abc import Awaitable, Callable, Container, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from .. import background
from ..engines.process import start_ticks
from ..engines.registry import load_engine
from ..errors import Conflict, DLEnvError, EngineUnavailable, InvalidRequest
from ..gpus.asks import Ask
from ..gpus.lease import Lease, Queued
from ..gpus.leases import Leases
from ..gpus.ledger import LEASES, MANAGERS, QUEUE, Record
from ..i18n import _
from ..kernels.environments import environment_from_json
from ..options import RunRequest, request_from_json
from ..paths import jobs_dir
from ..resources import GpuGrant, parse_size
from ..spec import JobState, JobStatus, Reason, Role, new_id
from .assembly import assemble
from .host import is_this_machine, this_host
from .principal import Principal
from .records import JobFolder, every_job, readable
from .retention import remove_old_jobs
from .retries import due_at
from .starting import BROKEN, HELD, Starter, cancelled, refused

_STEP_S = 1.0
_LOST_S = 15.0
_WATCH_S = 2.0
_TIDY_S = 3600.0
_LOG = logging.getLogger(__name__)

SUBMITTING: set[str] = set()
"""Jobs that are being submitted here, and are neither queued nor started yet."""


@dataclass(frozen=True)
class Kept:
    """What this process alone has of a job that waits.

    Attributes:
        secrets: Values of ``-e KEY``, which are written nowhere.
        record: Its record in the queue, None where others may start it too.
    """

    secrets: Mapping[str, str]
    record: Record | None = None


KEPT: dict[str, Kept] = {}
"""The jobs that were submitted here and have not started yet."""


def keep(ask: Ask, secrets: Mapping[str, str], queued: Queued | None) -> None:
    """Keep what a job needs that waits; its place stays its own without this process, if others may start it.

    Args:
        queued: Its place, None for a job that will need one for its next attempt alone.
    """
    if queued is not None and not ask.by_process:
        queued.record.leave()
    KEPT[ask.id] = Kept(secrets, queued.record if queued is not None and ask.by_process else None)


def forget(job_id: str) -> None:
    """Forget a job that waits no more."""
    kept, held = KEPT.pop(job_id, None), HELD.pop(job_id, None)
    if kept is not None and kept.record is not None:
        kept.record.release()
    if held is not None:
        held.close()


async def hold_gpus(starter: Starter, folder: JobFolder) -> None:
    """Hold the GPUs of an ended attempt for the next, if whoever started it is gone and nobody else has them by now."""
    job_id, data, uuids = folder.path.name, folder.kept(), folder.gpus()
    known = read_waiting(job_id, data) if data and uuids and job_id not in HELD else None
    if known is None:
        return
    try:
        assembled = await assemble(*known, starter.settings, folder, GpuGrant())
        lease = await starter.leases.reclaim(assembled.ask(), uuids)
    except (DLEnvError, OSError, *BROKEN):
        return  # the next attempt asks for GPUs, or tells why it cannot start
    if lease is not None:
        HELD[job_id] = lease


def waiting_data(request: RunRequest, principal: Principal, *, by_process: bool) -> dict[str, Any]:
    """Return what is kept of a job that may have to wait, and which process it was submitted to."""
    return {
        "request": {**asdict(request), "secrets": {}},
        "principal": asdict(principal),
        "by_process": by_process,
        "keeper": {"pid": os.getpid(), "start_ticks": start_ticks(os.getpid()), "machine": this_host()["machine"]},
    }


def starts_again(folder: JobFolder) -> bool:
    """Return whether anybody can start another attempt of a job."""
    data = folder.kept()
    return False if not data else (not data.get("by_process") or keeper_lives(data))


def keeper_lives(data: Mapping[str, Any]) -> bool:
    """Return whether the process that a job was submitted to is still there, or may be, where it cannot be seen."""
    keeper = data.get("keeper") or {"pid": 0, "start_ticks": -1}
    return not is_this_machine(keeper) or start_ticks(int(keeper["pid"])) == int(keeper["start_ticks"])


def read_waiting(job_id: str, data: Mapping[str, Any]) -> tuple[RunRequest, Principal] | None:
    """Return the request and who made it; None where only the process can start it that it was submitted to.

    Raises:
        InvalidRequest: Another version wrote it.
    """
    kept = KEPT.get(job_id)
    try:
        if data["by_process"] and kept is None:
            return None
        known = data["principal"]
        environment = environment_from_json(known["environment"]) if known["environment"] else None
        principal = Principal(known["owner"], known["kernel"], environment, known["root"])
        return request_from_json({**data["request"], "secrets": dict(kept.secrets) if kept else {}}), principal
    except (KeyError, TypeError) as error:
        raise InvalidRequest(_("The job was written by another version: {error}.").format(error=error)) from None


def pending(message: str) -> JobStatus:
    """Return the status of a job that waits for GPUs."""
    return JobStatus(JobState.PENDING, message=message)


def waiting_status(leases: Leases, folder: JobFolder, *, gpus: bool) -> JobStatus:
    """Return where a job stands that waits for GPUs, or is just being started. Asks NVML and Docker in this thread.

    Args:
        gpus: Whether it wants any; they are not asked otherwise, and need not be there.
    """
    job_id = folder.path.name
    place = leases.recent_overview().places.get(job_id) if gpus else None
    data = folder.waiting()
    if place is not None or data is None:
        return pending(place.reason if place else "")
    if data.get("by_process") and not keeper_lives(data) and not leases.holds(job_id):
        message = _("The process that the job was submitted to has ended, and it alone could start it.")
        return JobStatus(JobState.FAILED, reason=Reason.ENGINE, message=message)
    return pending("")


LookAfter = Callable[[JobFolder], Awaitable[None]]


class Advancer:
    """Starts this user's waiting jobs and looks after those that run, on the background thread.

    Args:
        look_after: Looks at a job that nobody may be following.
    """

    def __init__(self, starter: Starter, look_after: LookAfter) -> None:
        self._starter = starter
        self._look_after = look_after
        self._over: set[str] = set()
        self._pausing: set[str] = set()
        self._leases = starter.leases
        self._record: Record | None = None
        self._ended = threading.Event()
        self._waits = False
        self._warned: set[str] = set()

    def begin(self, kind: str) -> None:
        """Say in the ledger that somebody is here, and begin."""
        ledger = self._leases.ledger
        name = f"{os.geteuid()}-{os.getpid()}-{new_id()[:8]}"
        with ledger.locked():
            self._record = ledger.put(MANAGERS, name, {"kind": kind, "folder": str(jobs_dir())})
        background.start(self._run())

    def stop(self) -> None:
        """Start nothing more; two threads may ask for it at once."""
        self._ended.set()
        record, self._record = self._record, None
        if record is not None:
            record.release()
        for job_id in list(HELD):
            if held := HELD.pop(job_id, None):
                held.close()

    async def _run(self) -> None:
        looked = watched = tidied = -math.inf
        try:
            while not self._ended.is_set():
                if time.monotonic() - tidied > _TIDY_S:
                    tidied = time.monotonic()
                    await self._quietly(self._tidy())
                if time.monotonic() - looked > _LOST_S:
                    looked = time.monotonic()
                    await self._quietly(self._find_lost())
                if time.monotonic() - watched > _WATCH_S:
                    watched = time.monotonic()
                    await self._quietly(self._watch())
                await self._quietly(self._step())
                await self._quietly(self._begin_attempts())
                await asyncio.sleep(_STEP_S)
        finally:
            self.stop()  # who says that he is here must be

    async def _quietly(self, work: Awaitable[None]) -> None:
        try:
            await work
        except (DLEnvError, OSError, *BROKEN) as error:
            text = str(error)  # the daemon or the driver is away; the next step may do
            if self._ended.is_set():  # this process ends, and takes its threads from whatever it was doing
                return
            if text not in self._warned and (self._waits or not isinstance(error, EngineUnavailable)):
                self._warned.add(text)
                _LOG.warning("The queue for GPUs: %s", text)

    async def _step(self) -> None:
        here = str(jobs_dir())
        mine = {
            str(entry.data.get("id"))
            for entry in self._leases.ledger.entries(QUEUE)
            if entry.uid == os.geteuid() and entry.data.get("folder") == here
        }
        self._waits = bool(mine)
        if mine:
            turns = mine & await asyncio.to_thread(self._leases.startable)
            await asyncio.gather(*(self._try(job_id, self._leases.again) for job_id in turns))

    async def _tidy(self) -> None:
        """Remove records of ended jobs beyond what the settings keep."""
        settings = self._starter.settings
        most = parse_size(settings.keep_jobs_size) if settings.keep_jobs_size else 0
        days = settings.keep_jobs_days
        await asyncio.to_thread(remove_old_jobs, settings.owner, most_days=days, most_bytes=most)
        for name in ("docker", "process"):
            await self._quietly(self._remove_ended(name))

    async def _remove_ended(self, engine_name: str) -> None:
        """Remove what an engine still holds of jobs whose end is noted: whoever noted it was killed, or it was away."""
        engine, here = load_engine(engine_name), str(jobs_dir())
        for job in await engine.list(self._starter.settings.owner):
            ours = job.role is Role.TRAINER and job.labels.get("run-dir", "").startswith(f"{here}/")
            if ours and _is_here(JobFolder(job.id)) and JobFolder(job.id).final() is not None:
                await engine.remove(job.id)

    async def _watch(self) -> None:
        """Look after the jobs that have not ended and whose end has to be followed by something."""
        for folder in await asyncio.to_thread(self._running):
            if not folder.pauses():
                await self._quietly(self._look_after(folder))
            if folder.pauses():
                self._pausing.add(folder.path.name)

    def _running(self) -> list[JobFolder]:
        folders = [folder for folder in every_job() if folder.path.name not in self._over]
        self._over |= {folder.path.name for folder in folders if folder.final() is not None}
        left = [folder for folder in folders if folder.path.name not in self._over]
        going = [folder for folder in left if folder.started() or folder.pauses()]
        for job_id in self._over & (KEPT.keys() | HELD.keys()):
            forget(job_id)
        records = [(folder, record) for folder in going if (record := readable(folder)) and record.here]
        return [folder for folder, record in records if record.retries or record.notify]

    async def _begin_attempts(self) -> None:
        """Start the next attempts that are due."""
        for job_id in list(self._pausing):
            folder = JobFolder(job_id)
            if not folder.path.exists() or folder.final() is not None or not folder.pauses():
                self._pausing.discard(job_id)
            elif due_at(folder.ended_attempts()) <= time.time():
                self._pausing.discard(job_id)
                await self._try(job_id, self._same_gpus)

    async def _same_gpus(self, ask: Ask) -> Lease | Queued:
        """Return the GPUs of the attempt before; a place in the queue where they were not held."""
        held = HELD.pop(ask.id, None)
        kept = await self._leases.reclaimed(ask, held) if held is not None else None
        return kept or await self._leases.acquire(ask)

    async def _find_lost(self) -> None:
        """Put jobs into the queue again whose place was lost with a start of the host or a killed process."""
        ledger = self._leases.ledger
        known = {str(entry.data.get("id")) for entry in ledger.entries(QUEUE)}
        known |= {entry.name for entry in ledger.entries(LEASES) if entry.alive}  # just being started
        for job_id in await asyncio.to_thread(_lost, known):
            await self._try(job_id, self._leases.acquire)

    async def _try(self, job_id: str, ask: Callable[[Ask], Awaitable[object]]) -> None:
        """Start a job if it gets its GPUs; one that cannot be started has failed."""
        folder = JobFolder(job_id)
        try:
            if not await self._start(folder, ask):
                self._leases.cancel(job_id)  # nobody waits for this place
        except (Conflict, EngineUnavailable):
            return  # another process was faster, or it was stopped; or it waits on
        except (DLEnvError, OSError, *BROKEN) as error:
            if self._ended.is_set():
                return  # as this process ends; another one may start it
            self._leases.cancel(job_id)
            if folder.path.exists():
                folder.finish(refused(error, folder.ended_attempts()))

    async def _start(self, folder: JobFolder, ask: Callable[[Ask], Awaitable[object]]) -> bool:
        """Start a job if it gets its GPUs; False when it does not wait any more."""
        data = folder.waiting()
        if data is None or folder.final() is not None or not _is_here(folder):
            return False
        known = read_waiting(folder.path.name, data)
        if known is None:
            return True
        request, principal = known
        assembled = await assemble(request, principal, self._starter.settings, folder, GpuGrant())
        wish = assembled.ask()
        got = await ask(wish)
        if isinstance(got, Queued):
            keep(wish, request.secrets, got)
        elif isinstance(got, Lease):
            if folder.waiting() is None or folder.final() is not None or folder.stop_intended():
                got.close()
                if folder.stop_intended():
                    folder.finish(cancelled(folder.ended_attempts()))
                return False
            await self._starter.leased(folder, request, principal, got)
            if not request.retries:
                forget(folder.path.name)
        return True


def _lost(known: Container[str]) -> list[str]:
    """Return the jobs that wait and that nobody knows of, in the order in which they came."""
    known_jobs = [folder for folder in every_job() if _is_here(folder)]
    waiting = [(folder, data) for folder in known_jobs if (data := folder.waiting()) is not None]
    lost = [
        folder
        for folder, data in waiting
        if folder.path.name not in known
        and folder.final() is None
        and due_at(folder.ended_attempts()) <= time.time()
        and not (folder.attempt == 1 and _is_being_submitted(folder.path.name, data))
    ]
    return [folder.path.name for folder in sorted(lost, key=lambda each: each.record().created_at)]


def _is_here(folder: JobFolder) -> bool:
    """Return whether a job's record can be read, and is not another host's."""
    record = readable(folder)
    return record is not None and record.here


def _is_being_submitted(job_id: str, data: Mapping[str, Any]) -> bool:
    """Return whether a process is about to queue it, or has just got its GPUs."""
    mine = (data.get("keeper") or {}).get("pid") == os.getpid()
    return job_id in SUBMITTING if mine else keeper_lives(data)


_LOCK = threading.Lock()
_HERE: list[Advancer] = []
"""The one of this process, once there is one."""


def advance(starter: Starter, kind: str, look_after: LookAfter) -> None:
    """Start this user's waiting jobs from this process, too, as long as it lives; a second time changes nothing."""
    with _LOCK:
        if not _HERE:
            advancer = Advancer(starter, look_after)
            advancer.begin(kind)
            _HERE.append(advancer)


def advance_no_more() -> None:
    """Leave the waiting jobs to others."""
    with _LOCK:
        while _HERE:
            _HERE.pop().stop()
