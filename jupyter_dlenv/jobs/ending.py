"""How an attempt of a job ended: the engine's word, the owner's intent, the shims' results, the ranks' last words."""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import islice
from pathlib import Path

from ..engines.folder import RunFolder, ShimResult
from ..engines.recover import complete
from ..i18n import _
from ..spec import JobState, JobStatus, RankLogs, Reason
from .causes import BY_ID
from .diagnosis import Facts, NodeFacts, diagnose, explain
from .records import Final, JobFolder, JobRecord
from .retries import began_at

_SUBMIT_GRACE_S = 60.0
_TAIL_BYTES = 1 << 18
_MOST_ENTRIES = 5000
_SAYS_LITTLE = ("exit-code",)


def unknown(folder: JobFolder, record: JobRecord) -> JobStatus:
    """Return the status of a job that the engine does not know: its result decides, or it has not started yet."""
    result = RunFolder(folder.run).result()
    if result is not None:
        reason, message = explain(result.exit_code)
        state = JobState.SUCCEEDED if result.exit_code == 0 else JobState.FAILED
        return JobStatus(state, result.exit_code, reason, message, result.started_at, result.finished_at)
    if not folder.started() and time.time() < record.created_at + _SUBMIT_GRACE_S:
        return JobStatus(JobState.STARTING)
    return _rebooted() if folder.rebooted() else _lost()


def elsewhere(folder: JobFolder, record: JobRecord) -> JobStatus:
    """Return the status of another host's job that has not ended, as far as it is noted."""
    noted = JobState.RUNNING if folder.started() else JobState.STARTING
    message = _("It is on {host}. Only there more is known of it, and only there it can be stopped.")
    state = noted if folder.waiting() is None else JobState.PENDING
    return JobStatus(state, message=message.format(host=record.host.get("name", "")), attempt=folder.attempt)


def _lost() -> JobStatus:
    message = _("Its container was removed from outside, and it left no result.")
    return JobStatus(JobState.LOST, reason=Reason.REMOVED, message=message)


def _rebooted() -> JobStatus:
    message = _("The host was restarted while it ran.")
    return JobStatus(JobState.FAILED, reason=Reason.REBOOT, message=message)


def conclude(folder: JobFolder, record: JobRecord, status: JobStatus, attempt: int) -> Final:
    """Return how an attempt ended; completes its log first where its shim could not."""
    run = RunFolder(folder.run_of(attempt))
    result = run.result()
    if folder.started() and (result is None or result.log_error):
        complete(run, record.replicas)
    status = explained(record, status, result, stopped=folder.stop_intended())
    if folder.rebooted() and result is None and status.state is not JobState.SUCCEEDED:
        status = replace(_rebooted(), exit_code=status.exit_code, started_at=status.started_at)
    began = status.started_at or (None if folder.started() else began_at(folder.ended_attempts()))
    status = replace(status, started_at=began, finished_at=status.finished_at or time.time(), attempt=attempt)
    if status.state is not JobState.FAILED:
        return Final(status, log_bytes=run.log_size())
    return replace(_failure(record, run, status), log_bytes=run.log_size())


def _failure(record: JobRecord, run: RunFolder, status: JobStatus) -> Final:
    """Return an end with what the ranks' last words say about it."""
    if status.exit_code is None:
        return Final(status, failed_node=_without_result(record, run))
    found = diagnose(_facts(record, run, status, status.exit_code))
    keeps = status.reason in (Reason.REBOOT, Reason.REMOVED)
    unwritten = _log_error(record, run)
    if unwritten and found.cause in _SAYS_LITTLE:
        found = replace(found, cause="disk-full", evidence=unwritten, remedy=BY_ID["disk-full"].advise())
    where = _("Node {node}: {message}") if found.node is not None else "{message}"
    message = where.format(node=found.node, message=found.message)
    if unwritten:
        message = f"{message} " + _("Writing the log failed: {error}.").format(error=unwritten)
    told = status if keeps else replace(status, reason=found.reason, message=message)
    return Final(told, found.traceback, found.rank, found.node, found.cause, found.evidence, found.remedy)


def _log_error(record: JobRecord, run: RunFolder) -> str:
    """Return why a shim could not write the log for a while, empty where all could."""
    return next((result.log_error for result in run.results(record.replicas) if result and result.log_error), "")


def complete_log(run: RunFolder, record: JobRecord) -> None:
    """Write what a full disk kept out of an ended attempt's log; nothing where nothing is missing."""
    if _log_error(record, run):
        complete(run, record.replicas)


def _without_result(record: JobRecord, run: RunFolder) -> int | None:
    """Return the node whose container was removed: of several the one that has left no result."""
    left = [index for index, result in enumerate(run.results(record.replicas)) if result is None]
    return record.node_rank + left[0] if left and record.replicas > 1 else None


def _facts(record: JobRecord, run: RunFolder, status: JobStatus, exit_code: int) -> Facts:
    results = run.results(record.replicas)
    first = run.first_failure()
    return Facts(
        exit_code=exit_code,
        oom_killed=status.reason is Reason.OUT_OF_MEMORY,
        memory_limit=record.memory_bytes,
        shm_bytes=record.shm_bytes,
        timeout_s=record.timeout_s if status.reason is Reason.TIMEOUT else None,
        network=record.network,
        image=record.image,
        gpus=record.gpus_per_node,
        engine=record.engine,
        mounts=record.mounts,
        workdir=record.cwd,
        modules=_modules(Path(record.cwd)),
        nodes=tuple(_node_facts(record, run.node(index), index, result) for index, result in enumerate(results)),
        first_node=None if first is None else record.node_rank + first,
    )


def _node_facts(record: JobRecord, node: RunFolder, index: int, result: ShimResult | None) -> NodeFacts:
    logs = RankLogs(record.rank_logs, record.rank_part)
    texts = node.rank_texts(_TAIL_BYTES, logs) if record.rank_logs else {}
    first = record.first_ranks[index] if index < len(record.first_ranks) else 0
    return NodeFacts(
        rank=record.node_rank + index,
        launcher=node.launcher_text(_TAIL_BYTES),
        ranks={first + local: text for local, text in texts.items()},
        exit_code=result.exit_code if result else None,
        ended=result.cause if result else "exited",
    )


def _modules(folder: Path) -> tuple[str, ...]:
    """Return what can be imported from a folder: a missing module of these names is no missing package."""
    try:
        found = [path.stem for path in islice(folder.iterdir(), _MOST_ENTRIES) if path.suffix == ".py" or path.is_dir()]
    except OSError:
        return ()
    return tuple(found)


def explained(record: JobRecord, status: JobStatus, result: ShimResult | None, *, stopped: bool) -> JobStatus:
    """Return the status with what the engine cannot know: who stopped it, its time limit, which process ran out."""
    if status.exit_code is None:
        return replace(status, state=JobState.CANCELLED, reason=Reason.STOPPED) if stopped else status
    timed_out = result is not None and result.cause == "timeout"
    # What was told to end may save its work and exit with 0, but it has not done what it was started for.
    stopped = stopped and (status.exit_code != 0 or (result is not None and result.cause == "stopped"))
    reason, message = explain(
        status.exit_code,
        oom_killed=status.reason is Reason.OUT_OF_MEMORY or bool(result and result.oom_kills),
        memory_limit=record.memory_bytes,
        stopped_by_us=stopped,
        timeout_s=record.timeout_s if timed_out else None,
    )
    state = JobState.CANCELLED if stopped else JobState.FAILED if timed_out else status.state
    return replace(status, state=state, reason=reason, message=message)
