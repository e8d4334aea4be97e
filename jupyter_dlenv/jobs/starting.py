"""From a lease to a job that the engine has accepted."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

from ..engines.docker.names import container_name
from ..engines.folder import RunFolder
from ..errors import Conflict, DLEnvError
from ..gpus.lease import Lease
from ..gpus.leases import Leases
from ..i18n import _
from ..options import RunRequest
from ..settings import DLEnv
from ..spec import JobState, JobStatus, Reason
from .assembly import Assembled, assemble
from .debuggers import DEBUGGERS, Waiting
from .debugging import card, debug_rank, path_mappings
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
        if assembled.request.debug:
            folder.note_debugger(await waiting_debugger(assembled))
        if not assembled.request.retries:
            folder.waits_no_more()
        if held:
            await self.leases.hand_over(lease, job.native_id)
        else:
            lease.close()
        if folder.stop_intended():  # in the moment in which it was started
            await engine.cancel(job_id, grace_s=0)
        return job.status


async def waiting_debugger(assembled: Assembled) -> str:
    """Open the way to the rank that waits for a debugger, and return what a person is told about it."""
    spec = assembled.spec
    rank = debug_rank(assembled.request.debug, spec.nnodes * spec.nproc_per_node)
    index = rank // spec.nproc_per_node - spec.node_rank
    if not 0 <= index < spec.replicas:
        return _("Rank {rank} waits for a debugger on another host.").format(rank=rank)
    container = container_name(spec, index) if assembled.engine.capabilities.images else ""
    uids = [spec.identity.uid] if spec.identity else []
    run = RunFolder(Path(spec.run_dir)).node(index)
    port = await DEBUGGERS.open(spec.id, Waiting(assembled.engine.name, container, run, uids))
    mappings = path_mappings(assembled.user_mounts)
    return card(spec.name, rank, port, mappings, open_to_others=spec.network == "host")


def cancelled() -> Final:
    """Return the end of a job that its owner stopped before it was started."""
    return Final(JobStatus(JobState.CANCELLED, reason=Reason.STOPPED))


def refused(error: DLEnvError) -> Final:
    """Return the end of a job that was never started."""
    return Final(JobStatus(JobState.FAILED, reason=Reason.ENGINE, message=error.message))
