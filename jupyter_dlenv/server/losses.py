"""Running kernels and jobs that have lost their GPUs, or whose GPUs have a fault: told once, with what helps."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

from ..engines.docker.engine import DockerEngine
from ..engines.registry import load_engine
from ..errors import EngineUnavailable
from ..gpus.model import Health, Inventory
from ..gpus.reach import LOSSES, explain_loss, lost
from ..gpus.sampler import SAMPLER
from ..i18n import _
from ..kernels.board import BOARD
from ..spec import Job, JobState, Role, leased_by

_PYTHON = "python3"  # as the container's PATH finds it; a shell does where there is none


class GpuLosses:
    """Looks after the containers of one owner that hold GPUs.

    Args:
        owner: Whose containers.
    """

    def __init__(self, owner: str, log: logging.Logger) -> None:
        self._owner = owner
        self._log = log
        self._unsubscribe: Callable[[], None] | None = None

    async def look(self) -> None:
        """Look at every container once; to be called now and then."""
        engine = load_engine("docker")
        assert isinstance(engine, DockerEngine)
        try:
            holders = [job for job in await asyncio.to_thread(engine.leases) if job.owner == self._owner]
        except EngineUnavailable:
            return
        running = [job for job in holders if job.status.state is JobState.RUNNING]
        self._listen(bool(running))
        for known in set(LOSSES) - {job.id for job in running}:
            del LOSSES[known]
        if running:
            inventory = await asyncio.to_thread(SAMPLER.latest)
            troubles: dict[str, str] = {}
            for job in running:  # a job of several nodes is there several times
                troubles[job.id] = troubles.get(job.id) or await self._trouble(job, inventory, engine)
            for job in {job.id: job for job in running}.values():
                self._tell(job, troubles[job.id])

    def stop(self) -> None:
        """Listen to the driver no more."""
        self._listen(False)

    def _listen(self, wanted: bool) -> None:
        """Have the driver read each second while GPUs are in use: it tells of an error to those alone who listen."""
        if wanted and self._unsubscribe is None:
            self._unsubscribe = SAMPLER.subscribe(lambda inventory: None)
        elif not wanted and self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None

    async def _trouble(self, job: Job, inventory: Inventory, engine: DockerEngine) -> str:
        """Return what is wrong with a container's GPUs, empty when nothing is."""
        faults = fault_of(leased_by(job.labels), inventory)
        if faults:
            return faults
        nodes = await lost(engine, job.native_id, _PYTHON)
        if not nodes:
            return ""
        daemon = await asyncio.to_thread(engine.info)
        return str(explain_loss(nodes, cgroup_driver=daemon.cgroup_driver))

    def _tell(self, job: Job, message: str) -> None:
        if message == LOSSES.get(job.id, ""):
            return
        if message:
            LOSSES[job.id] = message
            self._log.warning(_("{what} {id}: {message}").format(what=job.name, id=job.id, message=message))
        else:
            del LOSSES[job.id]
        if job.role is Role.KERNEL:
            BOARD.update(job.id, message=message)


def fault_of(uuids: Iterable[str], inventory: Inventory) -> str:
    """Return what the driver reports of the GPUs that somebody holds, empty when they are well."""
    held = set(uuids)
    ill = {state.gpu.index: state.gpu for state in inventory.units() if state.uuid in held or state.gpu.uuid in held}
    said = [
        _("GPU {index}: {problem}").format(index=gpu.index, problem=gpu.problem)
        for gpu in ill.values()
        if gpu.health is not Health.OK
    ]
    return "\n".join(said)
