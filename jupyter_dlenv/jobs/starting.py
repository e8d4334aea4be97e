"""From a lease to a job that the engine has accepted."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from ..errors import Conflict, DLEnvError
from ..gpus.lease import Lease
from ..gpus.leases import Leases
from ..i18n import _
from ..options import RunRequest
from ..settings import DLEnv
from ..spec import JobState, JobStatus, Reason
from .assembly import Assembled, assemble
from .principal import Principal
from .records import Final, JobFolder
from .submission import forget_secrets, prepare_folder


class Starter:
    """Starts jobs whose GPUs are granted.

    Args:
        leases: The ledger.
    """

    def __init__(self, settings: DLEnv, leases: Leases) -> None:
        self.settings = settings
        self.leases = leases

    async def leased(self, folder: JobFolder, request: RunRequest, principal: Principal, lease: Lease) -> JobStatus:
        """Start an attempt of a request's job with these GPUs.

        Raises:
            DLEnvError: It was not started, and its record says why.
        """
        try:
            assembled = await assemble(request, principal, self.settings, folder, lease.gpus)
        except DLEnvError as error:
            lease.close()
            folder.finish(refused(error))
            raise
        return await self.start(folder, assembled, lease)

    async def start(self, folder: JobFolder, assembled: Assembled, lease: Lease) -> JobStatus:
        """Start an attempt; its GPUs are held by its containers' labels from then on, or by its process.

        Raises:
            Conflict: Another process has started it.
            DLEnvError: It was not started, and its record says why.
        """
        with folder.starting() as mine:
            if not mine:
                lease.close()
                raise Conflict(_("Job {id} is being started already.").format(id=assembled.spec.id))
            return await self._start(folder, assembled, lease)

    async def _start(self, folder: JobFolder, assembled: Assembled, lease: Lease) -> JobStatus:
        engine, job_id = assembled.engine, assembled.spec.id
        held = (lease.record.descriptor,) if lease.record and not engine.capabilities.images else ()
        try:
            plan = replace(engine.plan(assembled.spec), inherited=held)
            await asyncio.to_thread(prepare_folder, assembled, folder)
            job = await engine.submit(plan)
        except Conflict:
            lease.close()
            raise  # somebody else has started it, and what runs is his
        except DLEnvError as error:
            await asyncio.to_thread(forget_secrets, assembled)
            folder.finish(cancelled() if folder.stop_intended() else refused(error))
            await engine.remove(job_id)
            lease.close()
            raise
        await asyncio.to_thread(folder.mark_started, job.native_id)
        if not assembled.request.retries:
            folder.waits_no_more()
        if held:
            await self.leases.hand_over(lease, job.native_id)
        else:
            lease.close()
        if folder.stop_intended():  # in the moment in which it was started
            await engine.cancel(job_id, grace_s=0)
        return job.status


def cancelled() -> Final:
    """Return the end of a job that its owner stopped before it was started."""
    return Final(JobStatus(JobState.CANCELLED, reason=Reason.STOPPED))


def refused(error: DLEnvError) -> Final:
    """Return the end of a job that was never started."""
    return Final(JobStatus(JobState.FAILED, reason=Reason.ENGINE, message=error.message))
