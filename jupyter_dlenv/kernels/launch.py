"""From an Environment to a kernel that listens: every step between Jupyter's launch call and the first reply."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..engines.docker.engine import DockerEngine
from ..engines.folder import RunFolder
from ..engines.process import ProcessEngine, inherited_environment
from ..engines.registry import load_engine
from ..errors import ImageNotFound, JobNotFound, StartFailed
from ..gpus.leases import lease
from ..i18n import _
from ..images.pull import pull_with_progress
from ..jobs.principal import Principal
from ..paths import API_SOCKET, data_dir
from ..placement import Placement, place
from ..server.sockets import Listener, serve_jobs
from ..spec import CONTAINER_ROOT, Identity, Job, JobSpec, JobStatus, Mount, Role
from ..workspace import find_root, inside, leaving_links, link_hint
from .environments import Environment
from .folder import KernelFolder, ports
from .owner import Owner
from .runtime import MOUNT_POINT, Runtime, ensure_runtime, kernel_argv
from .sweep import clean_at_exit, cleaned, sweep

_READY_TIMEOUT_S = 120.0
_SOCKET_LOOK_S = 0.01
_STATUS_LOOK_S = 0.1
_RUN_DIR = f"{CONTAINER_ROOT}/run"
_LAST_LINES = 20


@dataclass(frozen=True)
class LaunchedKernel:
    """A kernel that runs, or ran.

    Attributes:
        connection: Jupyter's connection information, as seen from the host.
    """

    engine: DockerEngine | ProcessEngine
    job: Job
    spec: JobSpec
    folder: KernelFolder
    connection: dict[str, Any]
    listener: Listener

    async def status(self) -> JobStatus:
        """Return the kernel's status; one whose container is gone was removed from outside."""
        if isinstance(self.engine, DockerEngine):
            return await self.engine.status(self.job.native_id)
        found = await self.engine.poll([self.job.id])
        return found[self.job.id]

    async def signal(self, signum: int) -> None:
        """Deliver a signal; a kernel that has just ended needs none."""
        try:
            await self.engine.signal(self.job.id, signum)
        except JobNotFound:
            return

    async def epitaph(self, status: JobStatus) -> str:
        """Return why the kernel ended and the last lines that it wrote."""
        name = self.spec.environment
        head = _("The kernel of {environment} ended: {message}").format(environment=name, message=status.message)
        return f"{head}\n{await self._last_lines()}".strip()

    async def _last_lines(self) -> str:
        if isinstance(self.engine, DockerEngine):
            return await self.engine.console(self.job.native_id, _LAST_LINES)
        return await self.engine.console(self.job.id, _LAST_LINES)

    async def clean(self, *, keep_folder: bool) -> None:
        """Remove the replica, and unless a restart follows the folder and the job socket."""
        await self.engine.remove(self.job.id)
        if not keep_folder:
            cleaned(self.job.id)
            self.listener.close()
            self.folder.remove()

    async def ended(self) -> bool:
        """True when the kernel runs no more."""
        return (await self.status()).state.ended


async def launch(
    environment: Environment,
    owner: Owner,
    *,
    kernel_id: str,
    key: bytes,
    cwd: str,
    previous: LaunchedKernel | None,
    log: logging.Logger,
) -> LaunchedKernel:
    """Start a kernel and return when it listens.

    Args:
        previous: The kernel before a restart: folder, endpoints and leased GPUs stay.

    Raises:
        DLEnvError: Whatever went wrong, with the last lines of a kernel that ended at once.
    """
    if previous is None:
        await sweep()
    here = Path(cwd or os.getcwd())
    root = find_root(here, setting=owner.settings.root, server_root=owner.server_root)
    start = _Start(environment, owner, kernel_id, root, here, previous, log)
    spec, engine, identity = await (start.process() if environment.engine == "process" else start.container())
    folder = previous.folder if previous else KernelFolder(kernel_id)
    folder.create(identity)
    folder.forget_sockets()
    connection = {**ports(), "key": key, "transport": "ipc", "ip": folder.prefix, "signature_scheme": "hmac-sha256"}
    in_container = isinstance(engine, DockerEngine)
    folder.write_connection(connection, f"{_RUN_DIR}/k" if in_container else folder.prefix, identity)
    if not in_container:
        RunFolder(folder.path).write_launch(argv=spec.argv, cwd=spec.workdir, forward_signals=True)
    principal = Principal(owner.settings.owner, kernel_id, environment, str(root))
    listener = previous.listener if previous else serve_jobs(folder.api_socket, principal, owner.settings, identity)
    kernel = LaunchedKernel(engine, _not_yet(spec, engine), spec, folder, connection, listener)
    try:
        job = await engine.submit(engine.plan(spec))
        kernel = replace(kernel, job=job)
        await _wait_until_bound(kernel)
    except BaseException:
        await kernel.clean(keep_folder=previous is not None)
        raise
    clean_at_exit(kernel_id, kernel.ended, lambda: kernel.clean(keep_folder=False))
    return kernel


def _not_yet(spec: JobSpec, engine: DockerEngine | ProcessEngine) -> Job:
    from ..spec import JobState

    status = JobStatus(JobState.STARTING)
    return Job(spec.id, spec.role, engine.name, "", spec.name, spec.owner, spec.environment, spec.image_ref, status)


async def _wait_until_bound(kernel: LaunchedKernel) -> None:
    loop = asyncio.get_running_loop()
    deadline, look = loop.time() + _READY_TIMEOUT_S, loop.time() + _STATUS_LOOK_S
    while not kernel.folder.bound():
        await asyncio.sleep(_SOCKET_LOOK_S)
        if loop.time() >= look:
            status = await kernel.status()
            if status.state.ended:
                raise StartFailed(await kernel.epitaph(status), hint="jupyter dlenv doctor")
            look = loop.time() + _STATUS_LOOK_S
        if loop.time() >= deadline:
            raise StartFailed(_("The kernel did not listen within {n:.0f} s.").format(n=_READY_TIMEOUT_S))


@dataclass(frozen=True)
class _Start:
    """One start: what is to run, for whom, and where.

    Attributes:
        root: The notebook folder.
        here: The kernel's working folder.
        previous: The kernel before a restart.
    """

    environment: Environment
    owner: Owner
    kernel_id: str
    root: Path
    here: Path
    previous: LaunchedKernel | None
    log: logging.Logger

    @property
    def attempt(self) -> int:
        """Number of this start, from 1."""
        return self.previous.spec.attempt + 1 if self.previous else 1

    async def container(self) -> tuple[JobSpec, DockerEngine, Identity | None]:
        """Return what runs in a container, everything that it needs prepared."""
        environment, owner = self.environment, self.owner
        engine = load_engine("docker")
        assert isinstance(engine, DockerEngine)
        await _require_image(engine, environment.image, owner)
        placed = await place(
            engine,
            owner.settings,
            image=environment.image,
            environment=environment.name,
            root=self.root,
            mounts=environment.typed_mounts(),
        )
        _warn_of_links(self.root, self.here, placed.user_mounts, self.log)
        runtime = await ensure_runtime(engine, placed.image.id, placed.facts, data_dir=data_dir(), progress=owner.say)
        previous = self.previous
        gpus = previous.spec.gpu_uuids if previous else await lease(engine, environment.resources().gpus)
        workdir = _workdir(self.here, self.root, placed.user_mounts)
        spec = _container_spec(environment, owner, self.kernel_id, placed, runtime, workdir)
        return replace(spec, gpu_uuids=gpus, attempt=self.attempt), engine, placed.identity

    async def process(self) -> tuple[JobSpec, ProcessEngine, Identity | None]:
        """Return what runs as a plain process."""
        environment, owner = self.environment, self.owner
        engine = load_engine("process")
        assert isinstance(engine, ProcessEngine)
        owner.say(
            _("No container: the kernel of {name} is a plain process on this host.").format(name=environment.name)
        )
        folder = KernelFolder(self.kernel_id).path
        spec = JobSpec(
            id=self.kernel_id,
            role=Role.KERNEL,
            argv=(sys.executable, "-m", "jupyter_dlenv.kernels.plain", "-f", str(folder / "connection.json")),
            workdir=str(self.here if self.here.is_dir() else self.root),
            run_dir=str(folder),
            owner=owner.settings.owner,
            name=environment.name,
            environment=environment.name,
            instance=str(os.getpid()),
            python=sys.executable,
            env={**inherited_environment(dict(os.environ)), **_kernel_env(environment, str(folder), owner.grace_s)},
            network="host",
            attempt=self.attempt,
        )
        return spec, engine, None


def _container_spec(
    environment: Environment, owner: Owner, kernel_id: str, placed: Placement, runtime: Runtime, workdir: str
) -> JobSpec:
    folder = KernelFolder(kernel_id).path
    ours = (Mount(str(folder), _RUN_DIR), Mount(str(runtime.path), MOUNT_POINT, read_only=True))
    return JobSpec(
        id=kernel_id,
        role=Role.KERNEL,
        argv=tuple(kernel_argv(placed.facts)),
        workdir=workdir,
        run_dir=str(folder),
        owner=owner.settings.owner,
        name=environment.name,
        environment=environment.name,
        instance=str(os.getpid()),
        image=placed.image.id,
        image_ref=environment.image,
        python=placed.facts.python,
        env={**placed.env, **_kernel_env(environment, _RUN_DIR, owner.grace_s)},
        mounts=placed.mounts + ours,
        mask_dirs=placed.mask_dirs,
        mask_files=placed.mask_files,
        resources=environment.resources(),
        network=environment.network,
        identity=placed.identity,
    )


def _kernel_env(environment: Environment, run_dir: str, grace_s: float) -> dict[str, str]:
    return {
        "DLENV_API": f"{run_dir}/{API_SOCKET}",
        "DLENV_ENVIRONMENT": environment.name,
        "DLENV_OWNER_LOCK": f"{run_dir}/owner.lock",
        "DLENV_OWNER_GRACE": f"{grace_s:g}",
    }


async def _require_image(engine: DockerEngine, ref: str, owner: Owner) -> None:
    """Pull a missing image where the settings and the place allow; a start in a server never waits for a pull."""
    try:
        await engine.image(ref)
    except ImageNotFound:
        wanted = owner.settings.pull == "missing" or (owner.settings.pull == "ask" and not owner.is_server)
        if not wanted:
            raise
        await pull_with_progress(engine, ref, owner.say)


def _workdir(here: Path, root: Path, mounts: Sequence[Mount]) -> str:
    seen = any(inside(str(here), mount.target) for mount in mounts)
    return str(here) if seen else str(root)


def _warn_of_links(root: Path, here: Path, mounts: Sequence[Mount], log: logging.Logger) -> None:
    for folder in {root, here if here.is_dir() else root}:
        for link, end in leaving_links(folder, mounts):
            message = _("{link} is a link to {end}, which the container does not see. Add: {hint}")
            log.warning(message.format(link=link, end=end, hint=link_hint(end)))
