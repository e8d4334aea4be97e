"""JobManager: a request becomes a job, and a job's truth is told from the engine and its folder.

No state is kept in memory: any process of the owner may ask at any time, and the first that sees an end records it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..engines import folder as run_folder
from ..engines.base import Engine
from ..engines.folder import RunFolder, ShimResult
from ..engines.registry import load_engine
from ..errors import Conflict, DLEnvError, EngineUnavailable, NotFound
from ..gpus.asks import Ask
from ..gpus.lease import Lease, Queued
from ..gpus.leases import Leases
from ..gpus.reach import LOSSES
from ..i18n import _
from ..options import RunRequest
from ..resources import GpuGrant
from ..settings import DLEnv
from ..spec import JobState, JobStatus, Reason
from .assembly import assemble, gpu_request
from .diagnosis import explain, failing_rank, last_traceback
from .principal import Principal
from .records import Final, JobFolder, JobRecord, every_job, job_json, job_not_found, lost, rebooted
from .starting import Starter, cancelled, refused
from .waiting import SUBMITTING, advance, forget, keep, pending, waiting_data, waiting_status

_CANCEL_GRACE_S = 10.0
_SUBMIT_GRACE_S = 60.0
_TAIL_BYTES = 1 << 18


@dataclass(frozen=True)
class JobView:
    """A job with what is known of its end."""

    record: JobRecord
    status: JobStatus
    final: Final | None
    folder: JobFolder

    def to_json(self) -> dict[str, Any]:
        """Return the job as the REST contract describes it."""
        run = RunFolder(self.folder.run)
        return job_json(self.record, self.final, self.status, (self.folder.run / "log", run.log_size()))


@dataclass(frozen=True)
class LogFrame:
    """A piece of a job's log with the job's state; ``job`` is set on the last one.

    Attributes:
        message: What a job waits for.
    """

    data: bytes
    cursor: str
    open_lines: Mapping[str, str]
    state: JobState
    job: JobView | None = None
    message: str = ""


class JobManager:
    """Submits, tells, follows, stops and removes jobs of one owner at a time.

    Args:
        settings: What the administrator and the user set.
    """

    def __init__(self, settings: DLEnv) -> None:
        self._settings = settings
        self.leases = Leases(settings)
        self._starter = Starter(settings, self.leases)

    async def submit(self, principal: Principal, request: RunRequest) -> JobView:
        """Start a job, or queue it where it has to wait for GPUs; the same request id again returns the job it made.

        Raises:
            DLEnvError: Nothing was started; the message says why.
        """
        folder = JobFolder(request.request_id)
        if folder.path.exists():
            return await self.get(principal, request.request_id)
        assembled = await assemble(request, principal, self._settings, folder, GpuGrant())
        gpus = gpu_request(request)
        record = assembled.record(request, principal)
        assembled.engine.plan(assembled.spec)  # refuses what the engine lacks before anything is written
        if not folder.create(record):
            return await self.get(principal, request.request_id)
        if not gpus.wanted:
            return JobView(record, await self._starter.start(folder, assembled, Lease()), None, folder)
        ask = assembled.ask(gpus)
        SUBMITTING.add(record.id)
        folder.keep_waiting(waiting_data(request, principal, by_process=ask.by_process))
        try:
            return JobView(record, await self._lease_and_start(folder, request, principal, ask), None, folder)
        except Conflict:
            return await self.get(principal, record.id)  # another process has found it waiting, and was faster
        except DLEnvError as error:
            folder.finish(refused(error))
            raise
        except asyncio.CancelledError:
            folder.finish(cancelled())
            raise
        finally:
            SUBMITTING.discard(record.id)

    async def _lease_and_start(
        self, folder: JobFolder, request: RunRequest, principal: Principal, ask: Ask
    ) -> JobStatus:
        got = await self.leases.acquire(ask)
        if folder.stop_intended():
            return self._called_off(folder, got)
        if isinstance(got, Lease):
            return await self._starter.leased(folder, request, principal, got)
        keep(ask, request.secrets, got)
        self.advance("job")
        return pending(got.place.reason)

    def _called_off(self, folder: JobFolder, got: Lease | Queued) -> JobStatus:
        """Give back what a job was given that its owner stopped meanwhile."""
        if isinstance(got, Lease):
            got.close()
        else:
            got.record.release()
        return folder.finish(cancelled()).status

    def advance(self, kind: str) -> None:
        """Start this user's waiting jobs from this process, too, as long as it lives.

        Args:
            kind: What this process is, for whoever reads the ledger.
        """
        advance(self._starter, kind)

    async def dry_run(self, principal: Principal, request: RunRequest) -> str:
        """Return the command that :meth:`submit` would run; starts nothing and leaves nothing.

        Raises:
            DLEnvError: It could not be run.
        """
        folder = JobFolder(request.request_id)
        assembled = await assemble(request, principal, self._settings, folder, GpuGrant())
        gpus = await self.leases.preview(assembled.ask(gpu_request(request)))
        if gpus.uuids:
            assembled = await assemble(request, principal, self._settings, folder, gpus)
        return assembled.engine.plan(assembled.spec).command

    async def list(self, principal: Principal) -> list[JobView]:
        """Return the owner's jobs, newest first."""
        folders = [(folder, record) for folder in every_job() if (record := folder.record()).owner == principal.owner]
        statuses = await _poll_all([(folder, record) for folder, record in folders if folder.final() is None])
        views = [await self._view(folder, record, statuses.get(record.id)) for folder, record in folders]
        return sorted(views, key=lambda view: view.record.created_at, reverse=True)

    async def get(self, principal: Principal, job_id: str) -> JobView:
        """Return one job.

        Raises:
            JobNotFound: There is none, or it is somebody else's.
        """
        folder, record = self._folder(principal, job_id)
        if folder.final() is not None:
            return await self._view(folder, record, None)
        return await self._view(folder, record, (await load_engine(record.engine).poll([job_id])).get(job_id))

    async def cancel(self, principal: Principal, job_id: str, *, force: bool = False) -> JobView:
        """Stop a job and return it ended; one that has ended stays as it is.

        Raises:
            JobNotFound: There is none, or it is somebody else's.
        """
        folder, record = self._folder(principal, job_id)
        if folder.final() is None:
            await asyncio.to_thread(folder.intend_stop)
            if folder.waiting() is not None and await asyncio.to_thread(self.leases.cancel, job_id):
                folder.finish(cancelled())
                forget(job_id)
                return await self.get(principal, job_id)
            await load_engine(record.engine).cancel(job_id, grace_s=0 if force else _CANCEL_GRACE_S)
        return await self.get(principal, job_id)

    async def remove(self, principal: Principal, job_id: str) -> None:
        """Remove an ended job with its log.

        Raises:
            Conflict: It still runs.
            JobNotFound: There is none, or it is somebody else's.
        """
        view = await self.get(principal, job_id)
        if not view.status.state.ended:
            raise Conflict(_("Job {id} still runs.").format(id=job_id), hint=f"jupyter dlenv stop {job_id}")
        try:
            await load_engine(view.record.engine).remove(job_id)
        finally:
            await asyncio.to_thread(view.folder.remove)

    async def frames(
        self, principal: Principal, job_id: str, cursor: str = "", *, follow: bool = False, tail: int | None = None
    ) -> AsyncIterator[LogFrame]:
        """Yield the log from a cursor on; with ``follow`` until the job has ended, the last frame holding the job.

        Args:
            tail: Without a cursor begin at most this many bytes before the end.

        Raises:
            JobNotFound: There is none, or it is somebody else's.
            InvalidRequest: The cursor is not one of ours.
        """
        view = await self.get(principal, job_id)
        run = RunFolder(view.folder.run)
        if not cursor and tail is not None:
            cursor = run.tail_cursor(tail)
        watch = _Watch(self, principal, view, follow)
        async for chunk in run_folder.follow(run, cursor, watch.ended):
            cursor = chunk.cursor
            status = watch.view.status
            yield LogFrame(chunk.data, chunk.cursor, chunk.open_lines, status.state, message=status.message)
        status = watch.view.status
        ended = watch.view if status.state.ended else None
        yield LogFrame(b"", cursor, {} if ended else run.open_lines(), status.state, ended, status.message)

    def _folder(self, principal: Principal, job_id: str) -> tuple[JobFolder, JobRecord]:
        try:
            folder = JobFolder(job_id)
            record = folder.record()
        except (NotFound, ValueError):
            raise job_not_found(job_id[:80]) from None
        if record.owner != principal.owner:
            raise job_not_found(job_id)
        return folder, record

    async def _view(self, folder: JobFolder, record: JobRecord, status: JobStatus | None) -> JobView:
        final = folder.final()
        if final is None and status is None and folder.waiting() is not None:
            status = await asyncio.to_thread(waiting_status, self.leases, folder)
        elif final is None and status is None:
            status = _unknown(folder, record)
        if final is None and status is not None and status.state.ended:
            final = await _finish(folder, record, status)
        shown = final.status if final else status
        assert shown is not None
        if final is None and record.id in LOSSES:
            shown = replace(shown, message=LOSSES[record.id])
        return JobView(record, shown, final, folder)


class _Watch:
    """Keeps a followed job's newest view; :func:`..engines.folder.follow` decides how often it is asked for."""

    def __init__(self, manager: JobManager, principal: Principal, view: JobView, follow: bool) -> None:
        self._manager, self._principal, self._follow = manager, principal, follow
        self.view = view

    async def ended(self) -> bool:
        """True when nothing more will be written, or nobody wants to wait for it."""
        if self._follow and not self.view.status.state.ended:
            self.view = await self._manager.get(self._principal, self.view.record.id)
        return not self._follow or self.view.status.state.ended


async def _poll_all(jobs: list[tuple[JobFolder, JobRecord]]) -> dict[str, JobStatus]:
    found: dict[str, JobStatus] = {}
    for name in {record.engine for _folder, record in jobs}:
        engine: Engine = load_engine(name)
        ids = [record.id for _folder, record in jobs if record.engine == name]
        try:
            found.update(await engine.poll(ids))
        except EngineUnavailable as error:
            found.update(dict.fromkeys(ids, JobStatus(JobState.RUNNING, message=error.message)))
    return found


def _unknown(folder: JobFolder, record: JobRecord) -> JobStatus:
    """Return the status of a job that the engine does not know: its result decides, or it has not started yet."""
    result = RunFolder(folder.run).result()
    if result is not None:
        reason, message = explain(result.exit_code)
        state = JobState.SUCCEEDED if result.exit_code == 0 else JobState.FAILED
        return JobStatus(state, result.exit_code, reason, message, result.started_at, result.finished_at)
    if not folder.started() and time.time() < record.created_at + _SUBMIT_GRACE_S:
        return JobStatus(JobState.STARTING)
    return rebooted() if folder.rebooted() else lost()


async def _finish(folder: JobFolder, record: JobRecord, status: JobStatus) -> Final:
    final = folder.finish(await asyncio.to_thread(conclude, folder, record, status))
    await load_engine(record.engine).remove(record.id)
    return final


def conclude(folder: JobFolder, record: JobRecord, status: JobStatus) -> Final:
    """Return how a job ended: the engine's word, the owner's intent, the shim's cause, the failing rank's traceback."""
    run = RunFolder(folder.run)
    status = explained(record, status, run.result(), stopped=folder.stop_intended())
    if folder.rebooted() and run.result() is None and status.state is not JobState.SUCCEEDED:
        status = replace(rebooted(), exit_code=status.exit_code, started_at=status.started_at)
    status = replace(status, finished_at=status.finished_at or time.time())
    if status.state is not JobState.FAILED:
        return Final(status)
    launcher = run.launcher_text(_TAIL_BYTES)
    failed = failing_rank(launcher)
    output, errors = run.rank_texts(_TAIL_BYTES).get(failed[0] if failed else 0, ("", ""))
    found = (last_traceback(text) for text in (errors, output, launcher))
    return Final(status, next(filter(None, found), ""), failed[0] if failed else None)


def explained(record: JobRecord, status: JobStatus, result: ShimResult | None, *, stopped: bool) -> JobStatus:
    """Return the status with what the engine cannot know: who stopped it, its time limit, which process ran out."""
    if status.exit_code is None:
        return replace(status, state=JobState.CANCELLED, reason=Reason.STOPPED) if stopped else status
    timed_out = result is not None and result.cause == "timeout"
    reason, message = explain(
        status.exit_code,
        oom_killed=status.reason is Reason.OUT_OF_MEMORY or bool(result and result.oom_kills),
        memory_limit=record.memory_bytes,
        stopped_by_us=stopped,
        timeout_s=record.timeout_s if timed_out else None,
    )
    cancelled = stopped and status.state is JobState.FAILED
    return replace(status, state=JobState.CANCELLED if cancelled else status.state, reason=reason, message=message)
