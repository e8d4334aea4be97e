"""From an Environment to a kernel that listens: every step between Jupyter's launch call and the first reply."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..engines.docker.engine import DockerEngine
from ..engines.folder import RunFolder
from ..engines.process import ProcessEngine
from ..errors import StartFailed
from ..i18n import _
from ..jobs.principal import Principal
from ..server.sockets import Listener, serve_jobs
from ..spec import Identity, JobSpec
from ..workspace import find_root
from . import records
from .board import BOARD, Phase
from .death import Circumstances, explain_death
from .environments import Environment, environment_from_json
from .folder import KernelFolder, ports
from .owner import Owner
from .records import KernelRecord
from .running import LaunchedKernel
from .start import NOTEBOOK, RUN_DIR, Prepared, Start
from .sweep import clean_at_exit, sweep

_READY_TIMEOUT_S = 120.0
_SOCKET_LOOK_S = 0.01
_STATUS_LOOK_S = 0.1


@dataclass(frozen=True)
class Wish:
    """What a client wants started.

    Attributes:
        key: Signs the kernel's messages.
        cwd: The kernel's working folder, empty for this process's.
        notebook: The notebook's path, empty for a kernel without one.
        pooled: Nobody waits for it yet.
    """

    environment: Environment
    kernel_id: str
    key: bytes
    cwd: str = ""
    notebook: str = ""
    pooled: bool = False


async def launch(
    wish: Wish, owner: Owner, log: logging.Logger, previous: LaunchedKernel | None = None
) -> LaunchedKernel:
    """Start a kernel and return when it listens.

    Args:
        previous: The kernel before a restart: folder, endpoints and leased GPUs stay.

    Raises:
        DLEnvError: Whatever went wrong, with the last lines of a kernel that ended at once.
    """
    if previous is None:
        await sweep()
    start = _start_of(wish, owner, log, previous)
    try:
        start.report(Phase.QUEUED)
        kernel = await _launch(start, previous)
    except BaseException as error:
        if previous is None:
            BOARD.forget(wish.kernel_id)
        else:
            start.report(Phase.ENDED)
            BOARD.update(wish.kernel_id, why=str(error), ended_at=time.time())
        raise
    start.report(Phase.READY)
    clean_at_exit(kernel.kernel_id, kernel.ended, kernel.clean)
    return kernel


def _start_of(wish: Wish, owner: Owner, log: logging.Logger, previous: LaunchedKernel | None) -> Start:
    here = Path(wish.cwd or os.getcwd())
    return Start(
        environment=wish.environment,
        owner=owner,
        kernel_id=wish.kernel_id,
        key=wish.key,
        root=find_root(here, setting=owner.settings.root, server_root=owner.server_root),
        here=here,
        folder=previous.folder if previous else KernelFolder(wish.kernel_id),
        log=log,
        notebook=wish.notebook,
        pooled=wish.pooled,
        attempt=previous.attempt if previous else 1,
        lease=previous.lease if previous else None,
    )


async def _launch(start: Start, previous: LaunchedKernel | None) -> LaunchedKernel:
    prepared = await start.prepare()
    try:
        return await _launch_prepared(start, prepared, previous)
    except BaseException:
        if previous is None or prepared.lease.record is not previous.lease.record:
            prepared.lease.close()
        raise


async def _launch_prepared(start: Start, prepared: Prepared, previous: LaunchedKernel | None) -> LaunchedKernel:
    spec, engine, identity = prepared.spec, prepared.engine, prepared.identity
    start.report(Phase.CREATING)
    digest = recipe_digest(spec)
    again = previous is not None and previous.digest == digest and start.owner.settings.restart_keeps_container
    if previous is not None and not again:
        spec = replace(spec, attempt=spec.attempt + 1)
    connection = _prepare_folder(start, spec, identity, engine)
    if previous is not None:
        previous.listener.close()  # the environment may have changed, and with it what its jobs run in
    listener = serve_kernel(start, identity)
    kernel = LaunchedKernel(
        kernel_id=spec.id,
        environment=spec.environment,
        engine=engine,
        native_id=previous.native_id if previous else "",
        digest=digest,
        folder=start.folder,
        connection=connection,
        listener=listener,
        attempt=spec.attempt,
        lease=prepared.lease,
        memory_limit=spec.resources.memory_bytes,
    )
    try:
        if again and isinstance(engine, DockerEngine):
            await engine.start_again(kernel.native_id)
        else:
            kernel = replace(kernel, native_id=await _submit(engine, spec, previous))
        start.report(Phase.STARTING)
        await _wait_until_bound(kernel)
    except BaseException:
        await (kernel.remove_replica() if previous else kernel.clean())
        raise
    return kernel


async def _submit(engine: DockerEngine | ProcessEngine, spec: JobSpec, previous: LaunchedKernel | None) -> str:
    """Start a replica and return its native id.

    The container before goes after the next one is there, so that nobody else takes its GPUs in between.
    """
    if previous is not None and not isinstance(engine, DockerEngine):
        await previous.remove_replica()
    job = await engine.submit(engine.plan(spec))
    if previous is not None and isinstance(engine, DockerEngine):
        await engine.discard(previous.native_id)
    return job.native_id


def recipe_digest(spec: JobSpec) -> str:
    """Return what tells whether the container of an earlier start would be made the same today."""
    env = {key: value for key, value in spec.env.items() if key != NOTEBOOK}
    return replace(spec, attempt=1, instance="", env=env).digest()


def _prepare_folder(
    start: Start, spec: JobSpec, identity: Identity | None, engine: DockerEngine | ProcessEngine
) -> dict[str, Any]:
    """Write what the kernel and the next owner read, and return the connection as seen from the host."""
    folder, in_container = start.folder, isinstance(engine, DockerEngine)
    folder.create(identity)
    folder.forget_sockets()
    connection = connection_of(folder, start.key)
    folder.write_connection(connection, f"{RUN_DIR}/k" if in_container else folder.prefix, identity)
    if not in_container:
        RunFolder(folder.path).write_launch(argv=spec.argv, cwd=spec.workdir, forward_signals=True)
    records.write(
        KernelRecord(
            kernel_id=start.kernel_id,
            folder_id=folder.id,
            environment=asdict(start.environment),
            key=start.key.decode(),
            root=str(start.root),
            cwd=str(start.here),
            server_root=start.owner.server_root,
            grace_s=start.owner.grace_s,
            digest=recipe_digest(spec),
            place=engine.place,
            pooled=start.pooled,
        )
    )
    return connection


def connection_of(folder: KernelFolder, key: bytes) -> dict[str, Any]:
    """Return Jupyter's connection information of the kernel in a folder."""
    return {**ports(), "key": key, "transport": "ipc", "ip": folder.prefix, "signature_scheme": "hmac-sha256"}


def serve_kernel(start: Start, identity: Identity | None) -> Listener:
    """Open the kernel's job socket, whose principal nothing can change."""
    return serve_for(start.folder, start.owner, start.kernel_id, start.environment, str(start.root), identity)


def serve_for(
    folder: KernelFolder,
    owner: Owner,
    kernel_id: str,
    environment: Environment | Mapping[str, Any],
    root: str,
    identity: Identity | None,
) -> Listener:
    """Open the job socket in a kernel's folder for one principal."""
    known = environment if isinstance(environment, Environment) else environment_from_json(environment)
    principal = Principal(owner.settings.owner, kernel_id, known, root)
    return serve_jobs(folder.api_socket, principal, owner.settings, identity, made_in=folder.path.parent)


async def _wait_until_bound(kernel: LaunchedKernel) -> None:
    loop = asyncio.get_running_loop()
    deadline, look = loop.time() + _READY_TIMEOUT_S, loop.time() + _STATUS_LOOK_S
    while not kernel.folder.bound():
        await asyncio.sleep(_SOCKET_LOOK_S)
        if loop.time() >= look:
            status = await kernel.status()
            if status.state.ended:
                seen = Circumstances(kernel.environment, memory_limit=kernel.memory_limit)
                death = explain_death(status, await kernel.last_lines(), seen)
                raise StartFailed(death.text(), hint="jupyter dlenv doctor")
            look = loop.time() + _STATUS_LOOK_S
        if loop.time() >= deadline:
            raise StartFailed(_("The kernel did not listen within {n:.0f} s.").format(n=_READY_TIMEOUT_S))
