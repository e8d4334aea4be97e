"""The process engine: plain processes of the caller, no container, no image, no limits.

For machines without Docker: Binder, CI, a login node. One state file a job lies beside its record; the shim's result
file decides how it ended, so any process can say so later.
"""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from ..atomic import write_text
from ..errors import Conflict, JobNotFound, StartFailed, Unsupported
from ..i18n import _
from ..jobs.diagnosis import explain
from ..paths import data_dir
from ..spec import Job, JobSpec, JobState, JobStatus, Reason, Role, labels_of, require_id
from . import folder
from .base import Capabilities, Engine, LogChunk, Plan
from .folder import RunFolder, ShimResult
from .shim import FOLDER

_POLL_S = 0.05
_SHIM_GRACE_S = 2.0
_CHILDREN: dict[int, subprocess.Popen[bytes]] = {}
"""The shims that this process started, kept so that they are reaped."""


@dataclass(frozen=True)
class _Record:
    """What the state file holds: enough to recognise the process again after its number was reused."""

    pid: int
    start_ticks: int
    started_at: float
    labels: dict[str, str]


class ProcessEngine(Engine):
    """Replicas are process groups on this host.

    Args:
        state_dir: Folder of the state files.
    """

    name: ClassVar[str] = "process"
    capabilities: ClassVar[Capabilities] = Capabilities(
        images=False, limits=False, networks=False, mounts=False, gpus=True
    )

    def __init__(self, state_dir: Path | None = None) -> None:
        self._state_dir = state_dir or data_dir() / "processes"

    @property
    def place(self) -> str:
        return str(self._state_dir)

    def plan(self, spec: JobSpec) -> Plan:
        _refuse_unsupported(spec)
        argv = [spec.python, "-I", "-S", FOLDER, spec.run_dir]
        request = {"argv": argv, "env": dict(spec.env), "cwd": spec.workdir}
        return Plan(spec, (request,), _command_line(spec))

    async def submit(self, plan: Plan) -> Job:
        return await asyncio.to_thread(self._submit, plan)

    def _submit(self, plan: Plan) -> Job:
        spec = plan.spec
        path = self._path(spec.id)
        known = _read(path)
        if known is None or int(known.labels["attempt"]) < spec.attempt:
            known = self._start(plan, path)
        elif known.labels["spec"] != spec.digest():
            raise Conflict(_("Job {id} is something else already.").format(id=spec.id), hint="jupyter dlenv jobs")
        return _job(known)

    def _start(self, plan: Plan, path: Path) -> _Record:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            with open(Path(plan.spec.run_dir) / "shim.log", "ab") as output:
                child = subprocess.Popen(
                    plan.requests[0]["argv"],
                    env=plan.requests[0]["env"],
                    cwd=plan.requests[0]["cwd"],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                    pass_fds=plan.inherited,
                )
        except OSError as error:
            raise StartFailed(_("The process could not be started: {error}").format(error=error)) from error
        _CHILDREN[child.pid] = child
        record = _Record(child.pid, start_ticks(child.pid) or 0, time.time(), labels_of(plan.spec, ""))
        write_text(path, json.dumps(asdict(record)))
        return record

    async def poll(self, ids: Iterable[str]) -> dict[str, JobStatus]:
        records = {job_id: _read(self._path(require_id(job_id))) for job_id in ids}
        return {job_id: _status(record) for job_id, record in records.items() if record}

    async def logs(self, job_id: str, cursor: str = "", *, follow: bool = False) -> AsyncIterator[LogChunk]:
        record = self._record(job_id)

        async def ended() -> bool:
            return not follow or _status(record).state.ended

        async for chunk in folder.follow(RunFolder(Path(record.labels["run-dir"])), cursor, ended):
            yield chunk

    async def signal(self, job_id: str, signum: int) -> None:
        record = self._record(job_id)
        if not _alive(record):
            raise JobNotFound(_("Job {id} has ended.").format(id=job_id))
        if signum == signal.SIGKILL:  # the shim could not hand that one on
            RunFolder(Path(record.labels["run-dir"])).request_stop(kill=True)
        else:
            os.kill(record.pid, signum)

    async def cancel(self, job_id: str, *, grace_s: float = 10) -> None:
        record = _read(self._path(require_id(job_id)))
        if record is None or not _alive(record):
            return
        run = RunFolder(Path(record.labels["run-dir"]))
        run.request_stop(kill=grace_s <= 0)
        if not await _gone(record, grace_s + _SHIM_GRACE_S):
            run.request_stop(kill=True)
        if not await _gone(record, _SHIM_GRACE_S):
            os.killpg(record.pid, signal.SIGKILL)
            await _gone(record, _SHIM_GRACE_S)

    async def list(self, owner: str | None = None) -> list[Job]:
        records = [record for path in sorted(self._state_dir.glob("*.json")) if (record := _read(path))]
        return [_job(record) for record in records if owner in (None, record.labels["owner"])]

    async def remove(self, job_id: str, attempt: int | None = None) -> None:
        record = _read(self._path(require_id(job_id)))
        if record is None or (attempt is not None and int(record.labels["attempt"]) > attempt):
            return
        await self.cancel(job_id, grace_s=0)
        self._path(require_id(job_id)).unlink(missing_ok=True)

    async def console(self, job_id: str, lines: int = 20) -> str:
        """Return the last lines that the replica wrote."""
        tail = RunFolder(Path(self._record(job_id).labels["run-dir"])).log_tail()
        return "\n".join(tail.decode(errors="replace").splitlines()[-lines:])

    def _path(self, job_id: str) -> Path:
        return self._state_dir / f"{job_id}.json"

    def _record(self, job_id: str) -> _Record:
        record = _read(self._path(require_id(job_id)))
        if record is None:
            raise JobNotFound(_("No process has the job {id}.").format(id=job_id), hint="jupyter dlenv jobs")
        return record


def _command_line(spec: JobSpec) -> str:
    """Return the command for a person to read, with the variables that are not this process's own."""
    one, own = spec.of_replica(0), inherited_environment(dict(os.environ))
    told = {key for key in one.env if key.startswith("DLENV_") and key not in spec.env}
    words = [f"{key}={value}" for key, value in one.env.items() if own.get(key) != value and key not in told]
    return shlex.join([*(["env", *words] if words else []), *one.argv])


def _refuse_unsupported(spec: JobSpec) -> None:
    if spec.replicas > 1:
        raise Unsupported(
            _("Several nodes on one host need containers, and the process engine has none."),
            hint=_("Name an image: --image IMAGE"),
        )
    asked = {
        "--image": spec.image is not None,
        "--memory": spec.resources.memory_bytes is not None,
        "--cpus": spec.resources.cpus is not None,
        "--shm-size": spec.resources.shm_bytes is not None,
        "--mount": bool(spec.mounts),
        "--network": spec.network not in ("", "host"),
    }
    for option, given in asked.items():
        if given:
            raise Unsupported(
                _("The process engine runs plain processes without a container, so {option} has no meaning.").format(
                    option=option
                ),
                hint=_("Leave {option} out, or use --engine docker.").format(option=option),
            )


def _read(path: Path) -> _Record | None:
    try:
        return _Record(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None


def start_ticks(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot; None for a zombie or nobody."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] == "Z" else int(fields[19])


def _alive(record: _Record) -> bool:
    child = _CHILDREN.get(record.pid)
    if child is not None and child.poll() is not None:
        return False
    return start_ticks(record.pid) == record.start_ticks


async def _gone(record: _Record, timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while _alive(record):
        if time.monotonic() >= deadline:
            return False
        await asyncio.sleep(_POLL_S)
    return True


def _status(record: _Record) -> JobStatus:
    return replace(_attempt_status(record), attempt=int(record.labels["attempt"]))


def _attempt_status(record: _Record) -> JobStatus:
    # Asked first: a shim that ends between the two looks has written its result by then.
    alive = _alive(record)
    result = RunFolder(Path(record.labels["run-dir"])).result()
    if alive:
        return JobStatus(JobState.RUNNING, started_at=record.started_at)
    if result is not None:
        return _ended(result)
    child = _CHILDREN.get(record.pid)
    if child is not None and child.returncode == -signal.SIGKILL:
        message = _("Its processes were killed from outside.")
        return JobStatus(JobState.FAILED, 137, Reason.KILLED, message, record.started_at)
    return JobStatus(JobState.LOST, None, Reason.ENGINE, _("It ended and left no result."), record.started_at)


def _ended(result: ShimResult) -> JobStatus:
    reason, message = explain(result.exit_code)
    state = JobState.SUCCEEDED if result.exit_code == 0 else JobState.FAILED
    return JobStatus(state, result.exit_code, reason, message, result.started_at, result.finished_at)


def _job(record: _Record) -> Job:
    labels = record.labels
    return Job(
        id=labels["id"],
        role=Role(labels["role"]),
        engine="process",
        native_id=str(record.pid),
        name=labels["name"],
        owner=labels["owner"],
        environment=labels["environment"],
        image_ref="",
        status=_status(record),
        labels=labels,
    )


def inherited_environment(environ: dict[str, str]) -> dict[str, Any]:
    """Return the variables that a plain process gets: the caller's, less Jupyter's own and its secrets."""
    dropped = ("JUPYTERHUB_", "JPY_", "JUPYTER_TOKEN")
    return {key: value for key, value in environ.items() if not key.startswith(dropped)}
