"""Running kernels and jobs that have lost their GPUs: found by a probe, told once, with what helps."""

from __future__ import annotations

import asyncio
import logging

from ..engines.docker.engine import DockerEngine
from ..engines.registry import load_engine
from ..errors import EngineUnavailable
from ..gpus.reach import LOSSES, explain_loss, lost
from ..i18n import _
from ..kernels.board import BOARD
from ..spec import Job, JobState, Role

_PYTHON = "python3"  # as the container's PATH finds it; a shell does where there is none


class GpuLosses:
    """Looks into the containers of one owner that hold GPUs.

    Args:
        owner: Whose containers.
    """

    def __init__(self, owner: str, log: logging.Logger) -> None:
        self._owner = owner
        self._log = log

    async def look(self) -> None:
        """Probe every container once; to be called now and then."""
        engine = load_engine("docker")
        assert isinstance(engine, DockerEngine)
        try:
            holders = [job for job in await asyncio.to_thread(engine.leases) if job.owner == self._owner]
        except EngineUnavailable:
            return
        running = [job for job in holders if job.status.state is JobState.RUNNING]
        for known in set(LOSSES) - {job.id for job in running}:
            del LOSSES[known]
        for job in running:
            self._tell(job, await lost(engine, job.native_id, _PYTHON), engine)

    def _tell(self, job: Job, nodes: tuple[str, ...], engine: DockerEngine) -> None:
        if not nodes:
            if LOSSES.pop(job.id, None) and job.role is Role.KERNEL:
                BOARD.update(job.id, message="")
            return
        if job.id in LOSSES:
            return
        LOSSES[job.id] = str(explain_loss(nodes, cgroup_driver=engine.info().cgroup_driver))
        self._log.warning(_("{what} {id}: {message}").format(what=job.name, id=job.id, message=LOSSES[job.id]))
        if job.role is Role.KERNEL:
            BOARD.update(job.id, message=LOSSES[job.id])
