"""From a lease to a job that the engine has accepted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from ..engines.docker.names import container_name
from ..engines.folder import RunFolder
from ..errors import Conflict, DLEnvError, EngineError, EngineUnavailable
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
from .retries import began_at
from .submission import forget_secrets, prepare_folder

BROKEN = (ValueError, TypeError, LookupError, ArithmeticError, RuntimeError)
"""What damaged text, or a mistake of ours, may lead to."""

HELD: dict[str, Lease] = {}
"""The GPUs of jobs that may have another attempt, which this process keeps for them from the one to the next."""


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
            with told():
                assembled = await assemble(request, principal, self.settings, folder, lease.gpus)
        except (DLEnvError, *BROKEN) as error:
            lease.close()
            _refuse(folder, error)
            raise
        return await self.start(folder, assembled, lease)

    async def start(self, folder: JobFolder, assembled: Assembled, lease: Lease) -> JobStatus:
        """Start an attempt; its GPUs are held by its containers' labels from then on, or by its process.

        Raises:
            Conflict: Another process has started it.
            DLEnvError: It was not started, and its record says why.
        """
        with folder.starting() as mine:
            if not mine or assembled.spec.attempt != folder.attempt:
                lease.close()
                raise Conflict(_("Job {id} is being started already.").format(id=assembled.spec.id))
            return await self._start(folder, assembled, lease)

    async def _start(self, folder: JobFolder, assembled: Assembled, lease: Lease) -> JobStatus:
        engine, job_id = assembled.engine, assembled.spec.id
        held = (lease.record.descriptor,) if lease.record and not engine.capabilities.images else ()
        try:
            begun = await self._begun(assembled)
            if begun is not None:
                lease.close()
                await asyncio.to_thread(folder.mark_started, "")
                return begun
            with told():
                plan = replace(engine.plan(assembled.spec), inherited=held)
                await asyncio.to_thread(prepare_folder, assembled, folder)
            job = await engine.submit(plan)
            with told():
                await asyncio.to_thread(folder.mark_started, job.native_id, lease.gpus.uuids)
        except Conflict:
            lease.close()
            raise  # somebody else has started it, and what runs is his
        except (DLEnvError, *BROKEN) as error:
            lease.close()
            await asyncio.to_thread(forget_secrets, folder, assembled.spec.attempt, assembled.spec.replicas)
            _refuse(folder, error)
            with suppress(DLEnvError):
                await engine.remove(job_id)
            raise
        if not assembled.request.retries:
            folder.waits_no_more()
        if held:
            await self.leases.hand_over(lease, job.native_id)
        if assembled.request.retries and lease.open:
            HELD[job_id] = lease
        elif held:
            lease.leave()
        else:
            lease.close()
        if assembled.request.debug:
            await self._note_debugger(folder, assembled)
        if folder.stop_intended():  # in the moment in which it was started
            await engine.cancel(job_id, grace_s=0)
        return job.status

    async def _begun(self, assembled: Assembled) -> JobStatus | None:
        """Return where an attempt stands that a killed starter has begun, None for any other."""
        spec = assembled.spec
        if not Path(spec.run_dir).exists():
            return None
        found = (await assembled.engine.poll([spec.id])).get(spec.id)
        mine = found is not None and found.attempt == spec.attempt and found.state is not JobState.STARTING
        return found if mine else None

    async def _note_debugger(self, folder: JobFolder, assembled: Assembled) -> None:
        try:
            folder.note_debugger(await waiting_debugger(assembled))
        except DLEnvError as error:
            folder.note_debugger(str(error))  # the job itself goes on, or has said why it does not


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


@contextmanager
def told() -> Iterator[None]:
    """Turn what the system refuses into an error of ours, so that a job that cannot be prepared has failed."""
    try:
        yield
    except OSError as error:
        raise EngineError(_("The job could not be prepared: {error}.").format(error=error), hint="df -h") from error


def _refuse(folder: JobFolder, error: Exception) -> None:
    """Write that a job was never started, unless it waits and only the engine is away: then it waits on."""
    if isinstance(error, EngineUnavailable) and folder.kept() is not None:
        return
    before = folder.ended_attempts()
    folder.finish(cancelled(before) if folder.stop_intended() else refused(error, before))


def cancelled(before: list[Final] | None = None) -> Final:
    """Return the end of a job that its owner stopped before it was started, or between two attempts.

    Args:
        before: How its attempts so far ended.
    """
    status = JobStatus(JobState.CANCELLED, reason=Reason.STOPPED, message=_("Stopped by its owner."))
    return Final(_ended_now(status, before or []))


def refused(error: BaseException, before: list[Final] | None = None) -> Final:
    """Return the end of a job that was not started, or not once more.

    Args:
        before: How its attempts so far ended.
    """
    message = error.message if isinstance(error, DLEnvError) else f"{type(error).__name__}: {error}"
    return Final(_ended_now(JobStatus(JobState.FAILED, reason=Reason.ENGINE, message=message), before or []))


def _ended_now(status: JobStatus, before: list[Final]) -> JobStatus:
    return replace(status, started_at=began_at(before), finished_at=time.time(), attempt=len(before) + 1)
