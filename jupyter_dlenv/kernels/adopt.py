"""Finds the kernels that an owner left behind, and becomes the owner of one."""

from __future__ import annotations

from ..engines.docker.engine import DockerEngine
from ..engines.process import ProcessEngine
from ..errors import Conflict, JobNotFound
from ..gpus.lease import Lease
from ..gpus.leases import Leases
from ..i18n import _
from ..spec import Identity, Job, leased_by
from . import records
from .board import BOARD, Phase
from .environments import environment_from_json
from .folder import KernelFolder
from .launch import connection_of, serve_for
from .owner import Owner
from .records import KernelRecord
from .running import LaunchedKernel
from .sweep import clean_at_exit, engine_of, within_reach


def left_by(server_root: str) -> list[KernelRecord]:
    """Return the kernels within reach that a server with this root folder started, and that have no living owner."""
    mine = [record for record in records.every() if record.server_root == server_root and within_reach(record)]
    return [record for record in mine if KernelFolder(record.folder_id).abandoned()]


def record_of(kernel_id: str) -> KernelRecord:
    """Return the record of a running kernel.

    Raises:
        JobNotFound: There is none.
    """
    for record in records.every():
        if record.kernel_id == kernel_id:
            return record
    raise JobNotFound(_("No kernel {id} is known here.").format(id=kernel_id))


async def adopt(record: KernelRecord, owner: Owner) -> LaunchedKernel:
    """Become the owner of a kernel that runs without one.

    Raises:
        Conflict: Another process was faster.
        JobNotFound: It has ended.
    """
    folder = KernelFolder(record.folder_id)
    if not folder.adopt():
        raise Conflict(_("The kernel {id} has an owner already.").format(id=record.kernel_id))
    try:
        engine, job = await _living(record, owner)
        holder = folder.path.stat()
        who = Identity(holder.st_uid, holder.st_gid)
        lease = await _lease(record, owner, job)
        listener = serve_for(folder, owner, record.kernel_id, record.environment, record.root, who)
    except BaseException:
        folder.release()
        raise
    environment = environment_from_json(record.environment)
    kernel = LaunchedKernel(
        kernel_id=record.kernel_id,
        environment=environment.name,
        engine=engine,
        native_id=job.native_id,
        digest=record.digest,
        folder=folder,
        connection=connection_of(folder, record.key.encode()),
        listener=listener,
        attempt=int(job.labels.get("attempt", "1")),
        lease=lease,
        memory_limit=environment.resources().memory_bytes,
    )
    BOARD.update(record.kernel_id, phase=Phase.READY, **environment.report())
    clean_at_exit(kernel.kernel_id, kernel.ended, kernel.clean)
    return kernel


async def _lease(record: KernelRecord, owner: Owner, job: Job) -> Lease:
    """Hold the GPUs that the kernel's container has, so that they are its own across a restart."""
    ask = environment_from_json(record.environment).ask(record.kernel_id, owner.settings.owner)
    return await Leases(owner.settings).renew(ask, leased_by(job.labels))


async def _living(record: KernelRecord, owner: Owner) -> tuple[DockerEngine | ProcessEngine, Job]:
    engine = engine_of(record)
    assert isinstance(engine, (DockerEngine, ProcessEngine))
    for job in await engine.list(owner.settings.owner):
        if job.id == record.kernel_id and not job.status.state.ended:
            return engine, job
    raise JobNotFound(_("The kernel {id} has ended.").format(id=record.kernel_id))
