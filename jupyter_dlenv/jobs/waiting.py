"""Jobs that wait for GPUs: what is kept of them, and who starts them when it is their turn.

Any process of the same user may do that, whichever is alive: a Jupyter server, a process that follows a job of its own,
or ``jupyter dlenv agent``. Each says so in the ledger.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from typing import Any

from .. import background
from ..errors import Conflict, DLEnvError, EngineUnavailable
from ..gpus.asks import Ask
from ..gpus.leases import Lease, Leases
from ..gpus.ledger import LEASES, MANAGERS, QUEUE, Record
from ..i18n import _
from ..kernels.environments import environment_from_json
from ..options import RunRequest, request_from_json
from ..resources import GpuGrant
from ..spec import JobState, JobStatus, Reason, Role
from .assembly import assemble, gpu_request
from .principal import Principal
from .records import JobFolder, every_job
from .starting import Starter, refused

_STEP_S = 1.0
_LOG = logging.getLogger(__name__)

SECRETS: dict[str, Mapping[str, str]] = {}
"""Values of ``-e KEY`` of the jobs that wait here; they are written nowhere."""


def waiting_data(request: RunRequest, principal: Principal) -> dict[str, Any]:
    """Return what is kept of a job that may have to wait."""
    return {
        "request": {**asdict(request), "secrets": {}},
        "secret_names": sorted(request.secrets),
        "principal": asdict(principal),
    }


def read_waiting(job_id: str, data: Mapping[str, Any]) -> tuple[RunRequest, Principal] | None:
    """Return the request and who made it; None where its secret values are not in this process."""
    secrets = SECRETS.get(job_id, {})
    if set(data["secret_names"]) - set(secrets):
        return None
    known = data["principal"]
    environment = environment_from_json(known["environment"]) if known["environment"] else None
    principal = Principal(known["owner"], known["kernel"], environment, known["root"])
    return request_from_json({**data["request"], "secrets": dict(secrets)}), principal


def pending(message: str) -> JobStatus:
    """Return the status of a job that waits for GPUs."""
    return JobStatus(JobState.PENDING, message=message)


def waiting_status(leases: Leases, folder: JobFolder) -> JobStatus:
    """Return where a job stands that waits for GPUs, or is just being started. Asks NVML and Docker in this thread."""
    place = leases.recent_overview().places.get(folder.path.name)
    if place is not None:
        return pending(place.reason)
    data = folder.waiting()
    if data and data["secret_names"] and folder.path.name not in SECRETS:
        names = ", ".join(data["secret_names"])
        message = _("The process is gone that kept the value of {names} while the job waited for GPUs.")
        return JobStatus(JobState.FAILED, reason=Reason.ENGINE, message=message.format(names=names))
    return pending("")


class Advancer:
    """Starts this user's waiting jobs, on the background thread."""

    def __init__(self, starter: Starter) -> None:
        self._starter = starter
        self._leases = starter.leases
        self._record: Record | None = None
        self._ended = threading.Event()

    def begin(self, kind: str) -> None:
        """Say in the ledger that somebody is here, and begin."""
        ledger = self._leases.ledger
        with ledger.locked():
            self._record = ledger.put(MANAGERS, f"{os.geteuid()}-{os.getpid()}", {"kind": kind})
        background.start(self._run())

    def stop(self) -> None:
        """Start nothing more."""
        self._ended.set()
        if self._record is not None:
            self._record.release()
            self._record = None

    async def _run(self) -> None:
        await self._quietly(self._find_lost())
        while not self._ended.is_set():
            await self._quietly(self._step())
            await asyncio.sleep(_STEP_S)

    async def _quietly(self, work: Awaitable[None]) -> None:
        try:
            await work
        except (DLEnvError, OSError) as error:
            _LOG.warning("The queue for GPUs: %s", error)  # the daemon or the driver is away; the next step may do

    async def _step(self) -> None:
        mine = {
            str(entry.data.get("id"))
            for entry in self._leases.ledger.entries(QUEUE)
            if entry.uid == os.geteuid() and entry.data.get("role") == Role.TRAINER.value
        }
        if mine:
            turns = mine & await asyncio.to_thread(self._leases.startable)
            await asyncio.gather(*(self._try(JobFolder(job_id), self._leases.again) for job_id in turns))

    async def _find_lost(self) -> None:
        """Put jobs into the queue again whose place was lost with a start of the host or a killed process."""
        ledger = self._leases.ledger
        known = {str(entry.data.get("id")) for entry in ledger.entries(QUEUE)}
        known |= {entry.name for entry in ledger.entries(LEASES) if entry.alive}  # just being started
        for folder in sorted(every_job(), key=lambda each: each.record().created_at):
            if folder.waiting() is not None and folder.final() is None and folder.path.name not in known:
                await self._try(folder, self._leases.acquire)

    async def _try(self, folder: JobFolder, ask: Callable[[Ask], Awaitable[object]]) -> None:
        """Start a job if it gets its GPUs; one that cannot be started has failed."""
        data = folder.waiting()
        known = read_waiting(folder.path.name, data) if data else None
        if known is None or folder.final() is not None:
            return
        request, principal = known
        try:
            assembled = await assemble(request, principal, self._starter.settings, folder, GpuGrant())
            got = await ask(assembled.ask(gpu_request(request)))
            if isinstance(got, Lease):
                await self._starter.leased(folder, request, principal, got)
                SECRETS.pop(folder.path.name, None)
        except (Conflict, EngineUnavailable):
            return  # another process was faster, or it was stopped; or it waits on
        except DLEnvError as error:
            self._leases.cancel(folder.path.name)
            folder.finish(refused(error))


_LOCK = threading.Lock()
_HERE: list[Advancer] = []
"""The one of this process, once there is one."""


def advance(starter: Starter, kind: str) -> None:
    """Start this user's waiting jobs from this process, too, as long as it lives; a second time changes nothing."""
    with _LOCK:
        if not _HERE:
            advancer = Advancer(starter)
            advancer.begin(kind)
            _HERE.append(advancer)


def advance_no_more() -> None:
    """Leave the waiting jobs to others."""
    with _LOCK:
        while _HERE:
            _HERE.pop().stop()
