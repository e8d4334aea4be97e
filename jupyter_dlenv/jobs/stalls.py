"""Looks after running jobs and says which of them seem to hang."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..engines.docker.engine import DockerEngine
from ..engines.folder import RunFolder
from ..engines.registry import load_engine
from ..errors import DLEnvError
from ..gpus.model import Unit
from ..gpus.sampler import SAMPLER
from ..settings import DLEnv
from ..spec import Job, JobState, Role, leased_by
from .records import JobFolder, JobRecord
from .stall import Pulse, is_still, stalled

STALLS: dict[str, str] = {}
"""What is to be said of running jobs that seem to hang, by id, as far as this process looked."""

_MINUTE_S = 60.0
_OWN = (("log",), ("tail.json",), ("raw", "launcher.log"))


@dataclass
class _Watched:
    """What earlier looks have found.

    Attributes:
        still_since: Since when the GPUs do nothing, None while they work.
        cpu_s: CPU time that the containers had used at ``cpu_at``, None before the first look.
    """

    still_since: float | None = None
    cpu_s: float | None = None
    cpu_at: float = 0.0


class Stalls:
    """Looks after the jobs of one owner.

    Args:
        settings: Says after how many minutes a job is remarked on.
    """

    def __init__(self, settings: DLEnv) -> None:
        self._settings = settings
        self._watched: dict[str, _Watched] = {}

    async def look(self) -> None:
        """Look at every running job once; to be called now and then."""
        after_s = self._settings.stall_minutes * _MINUTE_S
        engine = load_engine("docker")
        assert isinstance(engine, DockerEngine)
        try:
            jobs = await engine.list(self._settings.owner) if after_s > 0 else []
        except DLEnvError:
            return
        running = [job for job in jobs if job.role is Role.TRAINER and job.status.state is JobState.RUNNING]
        self._watched = {job.id: self._watched.get(job.id, _Watched()) for job in running}
        for known in set(STALLS) - set(self._watched):
            del STALLS[known]
        for job in running:
            await self._look_at(engine, job, after_s)

    async def _look_at(self, engine: DockerEngine, job: Job, after_s: float) -> None:
        pulse = await self._pulse(engine, job, after_s)
        found = stalled(job.id[:8], pulse, after_s) if pulse else None
        if found is None:
            STALLS.pop(job.id, None)
        else:
            STALLS[job.id] = f"{found.message} {found.remedy}"

    async def _pulse(self, engine: DockerEngine, job: Job, after_s: float) -> Pulse | None:
        """Return what a job did lately; None while its log grows, which is looked at first because it costs nothing."""
        folder = JobFolder(job.id)
        if not folder.path.is_dir():
            return None
        now, record = time.time(), folder.record()
        ages = {rank: now - when for rank, when in await asyncio.to_thread(_written_at, folder.run, record)}
        silent_s = min(ages.values(), default=0.0)
        watched = self._watched[job.id]
        uuids = leased_by(job.labels)
        if uuids:
            units = (await asyncio.to_thread(SAMPLER.latest)).units()
            still = _all_still([unit for unit in units if unit.uuid in uuids])
            watched.still_since = (watched.still_since or now) if still else None
            still_s = now - watched.still_since if watched.still_since else None
            return Pulse(silent_s, len(uuids), still_s, ranks=_ranks(ages))
        if silent_s < after_s / 2:
            watched.cpu_s = None
            return None
        return Pulse(silent_s, cores=await _cores(engine, job, watched, now), ranks=_ranks(ages))


def _ranks(ages: dict[int, float]) -> dict[int, float]:
    return {rank: age for rank, age in ages.items() if rank >= 0}


def _all_still(units: Sequence[Unit]) -> bool:
    return bool(units) and all(
        is_still(unit.gpu.utilization_percent, unit.gpu.memory_utilization_percent) for unit in units
    )


async def _cores(engine: DockerEngine, job: Job, watched: _Watched, now: float) -> float | None:
    """Return the CPU cores that a job used since the look before, None at the first."""
    used_s = await engine.cpu_seconds(job.id)
    if used_s is None:
        return None
    before_s, before = watched.cpu_s, watched.cpu_at
    watched.cpu_s, watched.cpu_at = used_s, now
    return None if before_s is None or now <= before else (used_s - before_s) / (now - before)


def _written_at(run: Path, record: JobRecord) -> list[tuple[int, float]]:
    """Return when each rank's files were last written; -1 stands for what is no rank's."""
    newest: dict[int, float] = {}
    for index in range(record.replicas):
        node = RunFolder(run).node(index)
        ranks = node.files.find(record.rank_logs.split("/")) if record.rank_logs else []
        for parts in [*_OWN, *ranks]:
            rank = _rank_of(parts, record, index)
            try:
                newest[rank] = max(newest.get(rank, 0.0), os.lstat(node.path.joinpath(*parts)).st_mtime)
            except OSError:
                continue
    return list(newest.items())


def _rank_of(parts: Sequence[str], record: JobRecord, index: int) -> int:
    name = parts[record.rank_part] if len(parts) >= -record.rank_part > 0 else ""
    return record.first_ranks[index] + int(name) if name.isascii() and name.isdigit() and len(name) < 8 else -1
