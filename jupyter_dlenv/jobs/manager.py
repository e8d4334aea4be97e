"""JobManager: a request becomes a job, and a job's truth is told from the engine and its folder.

Nothing that can still change is kept in memory: any process of the owner may ask at any time, and the first that sees
an end records it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from ..engines import folder as run_folder
from ..engines.base import Engine
from ..engines.folder import RunFolder
from ..engines.registry import load_engine
from ..errors import Conflict, DLEnvError, EngineUnavailable, InvalidRequest, NotFound
from ..gpus.asks import Ask
from ..gpus.lease import Lease, Queued
from ..gpus.leases import Leases
from ..gpus.reach import LOSSES
from ..i18n import _
from ..options import RunRequest
from ..resources import GpuGrant
from ..settings import DLEnv
from ..spec import JobState, JobStatus
from .assembly import Assembled, assemble
from .debuggers import DEBUGGERS
from .dry_run import shown
from .ending import complete_log, conclude, elsewhere, unknown
from .following import Looks, Watch, join_cursor, split_cursor
from .measures import keep_metrics, measured
from .metrics import MetricReader
from .notify import tell_once
from .principal import Principal
from .records import Final, JobFolder, JobRecord, job_ids, job_not_found, readable
from .retries import between_attempts, tried_again
from .stalls import STALLS
from .starting import Starter, cancelled, refused
from .submission import forget_secrets, keep_code, record_of
from .views import JobView, LogFrame
from .waiting import SUBMITTING, advance, forget, hold_gpus, keep, pending, starts_again, waiting_data, waiting_status

_CANCEL_GRACE_S = 10.0
_ENDED: dict[str, JobView] = {}
"""Jobs of this process's user that have ended, which changes no more; so that a long history is quick to tell."""

_RECORDS: dict[str, JobRecord] = {}
"""Records of jobs that have not, which are written once."""


class JobManager:
    """Submits, tells, follows, stops and removes jobs of one owner at a time.

    Args:
        settings: What the administrator and the user set.
    """

    def __init__(self, settings: DLEnv) -> None:
        self._settings = settings
        self.leases = Leases(settings)
        self._starter = Starter(settings, self.leases)
        self._looks = Looks(self._current)

    # Starting -----------------------------------------------------------------------------------------------------

    async def submit(self, principal: Principal, request: RunRequest) -> JobView:
        """Start a job, or queue it where it has to wait for GPUs; the same request id again returns the job it made.

        Raises:
            DLEnvError: Nothing was started; the message says why.
        """
        folder = JobFolder(request.request_id)
        if folder.path.exists():
            return await self.get(principal, request.request_id)
        MetricReader(request.plot)  # refuses a pattern that cannot be used
        assembled = await assemble(request, principal, self._settings, folder, GpuGrant())
        ask = assembled.ask()
        record = record_of(assembled, request, principal, self._settings.notify_command)
        assembled.engine.plan(assembled.spec)  # refuses what the engine lacks before anything is written
        if not folder.create(record):
            return await self.get(principal, request.request_id)
        waits = bool(ask.request.wanted or request.retries)
        try:
            if not waits:
                return JobView(record, await self._starter.start(folder, assembled, Lease()), None, folder)
            SUBMITTING.add(record.id)
            folder.keep_waiting(waiting_data(request, principal, by_process=ask.by_process))
            status = await self._lease_and_start(folder, request, principal, assembled, ask)
            return JobView(record, status, None, folder, code=folder.code_note())
        except Conflict:
            if not waits:
                raise
            return await self.get(principal, record.id)  # another process has found it waiting, and was faster
        except BaseException as error:  # whatever it was: nobody else would ever say how the job ended
            self._broken_off(folder, error)
            raise
        finally:
            SUBMITTING.discard(record.id)

    def _broken_off(self, folder: JobFolder, error: BaseException) -> None:
        """Record the end of a job whose submission broke off; one that runs already has an end of its own to come."""
        if folder.started() or (not isinstance(error, Exception) and folder.kept() is None):
            return
        folder.finish(refused(error) if isinstance(error, Exception) else cancelled())
        if folder.kept() is not None:
            forget(folder.path.name)
            with suppress(DLEnvError, OSError):
                self.leases.cancel(folder.path.name)

    async def _lease_and_start(
        self, folder: JobFolder, request: RunRequest, principal: Principal, assembled: Assembled, ask: Ask
    ) -> JobStatus:
        if request.retries:
            await asyncio.to_thread(keep_code, assembled, folder)
            keep(ask, request.secrets, None)
            self._advance_if_possible()  # whoever sees an attempt end, this process may be the one that starts the next
        got = await self.leases.acquire(ask)
        if folder.stop_intended():
            return self._called_off(folder, got)
        if isinstance(got, Lease):
            return await self._starter.leased(folder, request, principal, got)
        keep(ask, request.secrets, got)
        await asyncio.to_thread(keep_code, assembled, folder)
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
        advance(self._starter, kind, self._look_after)

    def _advance_if_possible(self) -> None:
        with suppress(EngineUnavailable):  # another process may be able to use the ledger
            self.advance("job")

    async def _look_after(self, folder: JobFolder) -> None:
        """Look at a job that nobody may be following: its end has to be noted, told, or followed by an attempt."""
        await self._current(folder, folder.record())

    async def dry_run(self, principal: Principal, request: RunRequest) -> str:
        """Return the commands that :meth:`submit` would run; starts nothing and leaves nothing.

        Raises:
            DLEnvError: It could not be run.
        """
        folder = JobFolder(request.request_id)
        MetricReader(request.plot)
        assembled = await assemble(request, principal, self._settings, folder, GpuGrant())
        gpus, waits = await self.leases.preview(assembled.ask())
        if gpus.uuids:
            assembled = await assemble(request, principal, self._settings, folder, gpus)
        return shown(assembled, waits)

    # Telling ------------------------------------------------------------------------------------------------------

    async def list(self, principal: Principal) -> list[JobView]:
        """Return the owner's jobs, newest first."""
        ids = await asyncio.to_thread(job_ids)
        known = [view for job_id in ids if (view := _ENDED.get(job_id)) is not None]
        others = await asyncio.to_thread(_recorded, [job_id for job_id in ids if job_id not in _ENDED])
        mine = [(folder, record) for folder, record in others if record.owner == principal.owner]
        statuses = await _poll_all([(folder, record) for folder, record in mine if folder.final() is None])
        views = [await self._view(folder, record, statuses.get(record.id)) for folder, record in mine]
        views += [view for view in known if view.record.owner == principal.owner]
        return sorted(views, key=lambda view: view.record.created_at, reverse=True)

    async def get(self, principal: Principal, job_id: str) -> JobView:
        """Return one job.

        Raises:
            JobNotFound: There is none, or it is somebody else's.
        """
        folder, record = self._folder(principal, job_id)
        return await self._current(folder, record)

    async def metrics(self, principal: Principal, job_id: str) -> dict[str, Any]:
        """Return the table of metrics that were found in a job's log so far.

        Raises:
            JobNotFound: There is none, or it is somebody else's.
        """
        view = await self.get(principal, job_id)
        return await asyncio.to_thread(measured, view.folder, view.record, ended=view.final is not None)

    async def _current(self, folder: JobFolder, record: JobRecord) -> JobView:
        if folder.final() is not None:
            return await self._view(folder, record, None)
        return await self._view(folder, record, (await _poll_all([(folder, record)])).get(record.id))

    async def _view(self, folder: JobFolder, record: JobRecord, status: JobStatus | None) -> JobView:
        final, attempt = folder.final(), folder.attempt
        if final is None and (status is None or status.attempt != attempt):
            status, attempt = await self._status(folder, record)
        if final is None and status is not None and status.state.ended:
            status, final = await self._finish(folder, record, status, attempt)
        shown = final.status if final else status
        assert shown is not None
        if final is None and (remark := LOSSES.get(record.id) or STALLS.get(record.id)):
            shown = replace(shown, message=remark)
        view = JobView(record, shown, final, folder, folder.attempt, folder.code_note())
        if final is not None:
            if record.here:
                await asyncio.to_thread(tell_once, folder, record, final)
            _ENDED[record.id] = view
            _RECORDS.pop(record.id, None)
        return view

    async def _status(self, folder: JobFolder, record: JobRecord) -> tuple[JobStatus, int]:
        """Return where a job stands and which attempt that is about, where the engine's first word did not tell it."""
        while True:
            attempt = folder.attempt
            if not record.here:
                return elsewhere(folder, record), attempt
            if folder.waiting() is not None:
                between = between_attempts(folder, record)
                if between:
                    self._advance_if_possible()  # who saw the attempt end may be gone
                try:
                    waits = await asyncio.to_thread(waiting_status, self.leases, folder, gpus=bool(record.gpus))
                except EngineUnavailable as error:
                    waits = pending(error.message)
                return (between if between and not (waits.message or waits.state.ended) else waits), attempt
            status = (await _poll_all([(folder, record)])).get(record.id)
            if folder.attempt == attempt:
                known = status is not None and status.attempt == attempt
                return (status if status is not None and known else unknown(folder, record)), attempt

    async def _finish(
        self, folder: JobFolder, record: JobRecord, status: JobStatus, attempt: int
    ) -> tuple[JobStatus, Final | None]:
        """Record an end that was seen: of the job, or of an attempt that another one follows."""
        final = await asyncio.to_thread(conclude, folder, record, status, attempt)
        if tried_again(record, final, attempt) and not folder.stop_intended() and starts_again(folder):
            await hold_gpus(self._starter, folder)
            await self._forget(folder, record, attempt)
            if folder.end_attempt(attempt, final):
                await load_engine(record.engine).remove(record.id, attempt)
            self._advance_if_possible()
            return between_attempts(folder, record) or final.status, None
        final = folder.finish(final)
        await self._forget(folder, record, attempt)
        await asyncio.to_thread(keep_metrics, folder, record, final.log_bytes)
        with suppress(DLEnvError):  # what is left is removed later
            await load_engine(record.engine).remove(record.id)
        folder.waits_no_more()
        forget(record.id)
        return final.status, final

    async def _forget(self, folder: JobFolder, record: JobRecord, attempt: int) -> None:
        """Remove what an attempt has left beside its log."""
        if record.secrets:
            await asyncio.to_thread(forget_secrets, folder, attempt, record.replicas)
        await DEBUGGERS.close(record.id)

    def _folder(self, principal: Principal, job_id: str) -> tuple[JobFolder, JobRecord]:
        try:
            folder = JobFolder(job_id)
            record = folder.record()
        except (NotFound, ValueError):
            raise job_not_found(job_id[:80]) from None
        if record.owner != principal.owner:
            raise job_not_found(job_id)
        return folder, record

    # Ending -------------------------------------------------------------------------------------------------------

    async def cancel(self, principal: Principal, job_id: str, *, force: bool = False) -> JobView:
        """Stop a job and return it ended; one that has ended stays as it is.

        Raises:
            Conflict: It is another host's.
            JobNotFound: There is none, or it is somebody else's.
        """
        folder, record = self._folder(principal, job_id)
        if folder.final() is None:
            _require_here(record)
            await asyncio.to_thread(folder.intend_stop)
            if folder.waiting() is not None:
                await asyncio.to_thread(self.leases.cancel, job_id)
                with folder.starting() as mine:  # whoever starts it just now stops it then
                    if mine:
                        folder.finish(cancelled(folder.ended_attempts()))
                        forget(job_id)
            await load_engine(record.engine).cancel(job_id, grace_s=0 if force else _CANCEL_GRACE_S)
        return await self.get(principal, job_id)

    async def remove(self, principal: Principal, job_id: str) -> None:
        """Remove an ended job with its log.

        Raises:
            Conflict: It still runs, or another host has not noted its end.
            JobNotFound: There is none, or it is somebody else's.
        """
        view = await self.get(principal, job_id)
        if not view.status.state.ended:
            _require_here(view.record)
            raise Conflict(_("Job {id} still runs.").format(id=job_id), hint=f"jupyter dlenv stop {job_id}")
        try:
            await load_engine(view.record.engine).remove(job_id)
        finally:
            await asyncio.to_thread(view.folder.remove)
            _ENDED.pop(job_id, None)

    # The log ------------------------------------------------------------------------------------------------------

    async def frames(
        self, principal: Principal, job_id: str, cursor: str = "", *, follow: bool = False, tail: int | None = None
    ) -> AsyncIterator[LogFrame]:
        """Yield the log from a cursor on, all attempts after each other; with ``follow`` until the job has ended.

        The last frame holds the job when it has ended.

        Args:
            tail: Without a cursor begin at most this many bytes before the end of the current attempt's log.

        Raises:
            JobNotFound: There is none, or it is somebody else's.
            InvalidRequest: The cursor is not one of ours.
        """
        view = await self.get(principal, job_id)
        attempt, cursor = split_cursor(cursor, view.attempt)
        if not cursor and tail is not None:
            attempt = view.log_attempt
            cursor = RunFolder(view.folder.run_of(attempt)).tail_cursor(tail)
        watch = Watch(self._looks, view, follow=follow)
        while True:
            run = RunFolder(view.folder.run_of(attempt))
            if view.final is not None:
                await asyncio.to_thread(complete_log, run, view.record)
            async for chunk in run_folder.follow(run, cursor, watch.ended_of(attempt)):
                cursor = chunk.cursor
                status, at = watch.view.status, join_cursor(attempt, cursor)
                yield LogFrame(chunk.data, at, chunk.open_lines, status.state, message=status.message, attempt=attempt)
            if attempt >= watch.view.attempt:
                break
            attempt, cursor = attempt + 1, ""
        status = watch.view.status
        ended = watch.view if status.state.ended else None
        lines = {} if ended else run.open_lines(cursor)
        yield LogFrame(b"", join_cursor(attempt, cursor), lines, status.state, ended, status.message, attempt)


def _recorded(ids: Iterable[str]) -> list[tuple[JobFolder, JobRecord]]:
    """Return the folders and records of jobs; one that is just being made or removed is none, or that is damaged."""
    found = []
    for job_id in ids:
        folder = JobFolder(job_id)
        record = _RECORDS.get(job_id) or readable(folder)
        if record is not None:
            found.append((folder, _RECORDS.setdefault(job_id, record)))
    return found


def _require_here(record: JobRecord) -> None:
    """Refuse what only another host can do to its job.

    Raises:
        Conflict: The job is of another host; the hint is what to run there.
    """
    if not record.here:
        name = record.host.get("name", "")
        raise Conflict(
            _("Job {id} is on {host}, and only there it can be stopped.").format(id=record.id, host=name),
            hint=_("On {host}: {command}").format(host=name, command=f"jupyter dlenv stop {record.id}"),
        )


async def _poll_all(jobs: list[tuple[JobFolder, JobRecord]]) -> dict[str, JobStatus]:
    found: dict[str, JobStatus] = {}
    here = [(folder, record) for folder, record in jobs if record.here]
    for name in {record.engine for _folder, record in here}:
        attempts = {record.id: folder.attempt for folder, record in here if record.engine == name}
        try:
            engine: Engine = load_engine(name)
            found.update(await engine.poll(attempts))
        except (EngineUnavailable, InvalidRequest) as error:  # it is away, or not installed here
            unseen = JobStatus(JobState.RUNNING, message=error.message)
            found.update({job_id: replace(unseen, attempt=attempt) for job_id, attempt in attempts.items()})
    return found
