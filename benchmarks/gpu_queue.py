"""A long queue for many GPUs, until the last job has started: how long that takes, and whether the order is kept."""

from __future__ import annotations

import random
import time
from collections import defaultdict
from dataclasses import dataclass, replace
from heapq import heappop, heappush

from jupyter_dlenv.gpus.model import Gpu, Unit
from jupyter_dlenv.gpus.schedule import Line, Stock, Waiting, schedule
from jupyter_dlenv.gpus.state import Standing, UnitState
from jupyter_dlenv.resources import GpuRequest

from .samples import Figure, Samples
from .world import World

REPEAT = 3
GOAL_S = 10
JOBS = 10_000
GPUS = 1_000
_OWNERS = 25
_SIZES = {1: 40, 2: 20, 4: 15, 8: 15, 16: 6, 64: 3, 256: 1}
"""GPUs of a job, with how many in a hundred are that large."""

_GIB = 1 << 30
_SHORTEST_S, _LONGEST_S = 600, 86_400


def measure(world: World, repeat: int | None) -> list[Figure]:
    """Return the seconds and how many jobs were overtaken; neither engine nor GPU is asked."""
    runs = [simulated(seed) for seed in range(repeat or REPEAT)]
    title = f"{JOBS:,} queued jobs on {GPUS:,} GPUs"
    notes = {
        "owners": _OWNERS,
        "sizes": _SIZES,
        "looks": [run.looks for run in runs],
        "share of the GPUs' time in use": [round(run.use, 3) for run in runs],
    }
    return [
        Figure(
            "gpu-queue",
            f"{title}: every look at the queue, one after each end of a job",
            "s",
            Samples("the whole simulation", [run.seconds for run in runs]),
            GOAL_S,
            notes=notes,
        ),
        Figure(
            "gpu-queue-order",
            f"{title}: waited behind a later one of the same size and owner",
            "jobs",
            Samples("overtaken", [run.overtaken for run in runs]),
            0,
            notes=notes,
        ),
    ]


@dataclass(frozen=True)
class Run:
    """What one simulation showed.

    Attributes:
        looks: How often the queue was looked at.
        overtaken: Jobs that waited behind a later one of the same size and owner.
        use: GPUs times seconds in use, as a share of all until the last start.
    """

    seconds: float
    looks: int
    overtaken: int
    use: float


def jobs(dice: random.Random) -> list[Waiting]:
    """Return jobs of many owners and sizes, most of them with a time limit and some for large GPUs only."""
    counts = dice.choices(list(_SIZES), list(_SIZES.values()), k=JOBS)
    return [
        Waiting(
            id=f"job-{number}",
            owner=f"user-{dice.randrange(_OWNERS)}",
            request=GpuRequest(count, min_memory_bytes=dice.choice((0, 0, 0, 40)) * _GIB),
            sequence=number,
            limit_s=None if dice.random() < 0.2 else dice.uniform(_SHORTEST_S, _LONGEST_S),
        )
        for number, count in enumerate(counts)
    ]


def gpus() -> list[UnitState]:
    """Return free GPUs, half of them large."""
    sizes = (24 * _GIB, 80 * _GIB)
    found = [Gpu(number, f"GPU-{number}", "simulated", memory_total_bytes=sizes[number % 2]) for number in range(GPUS)]
    return [UnitState(Unit(gpu.uuid, str(gpu.index), gpu), Standing.FREE) for gpu in found]


def simulated(seed: int) -> Run:
    """Run a queue until its last job has started, looking at it whenever a job has ended.

    Raises:
        RuntimeError: A GPU was given twice.
    """
    dice = random.Random(seed)
    waiting = {job.id: job for job in jobs(dice)}
    free, started = {state.unit.uuid: state for state in gpus()}, list[Waiting]()
    begin = time.perf_counter()
    line, stock = Line(waiting.values()), Stock(free.values())
    ends: list[tuple[float, tuple[str, ...]]] = []
    now, used, looks = 0.0, 0.0, 0
    while waiting:
        for name, uuids in schedule(line, stock, (), now).grants.items():
            line.remove(name)
            started.append(job := waiting.pop(name))
            lasts = (job.limit_s or dice.uniform(_SHORTEST_S, _LONGEST_S)) * dice.uniform(0.2, 1)
            heappush(ends, (now + lasts, uuids))
            used += lasts * len(uuids)
            _require(all(free.pop(uuid, None) for uuid in uuids))
        looks += 1
        if waiting:
            now, uuids = heappop(ends)
            for uuid in uuids:
                free[uuid] = replace(stock.rows[uuid], standing=Standing.FREE, holders=())
                stock.put(free[uuid])
    seconds = time.perf_counter() - begin
    unused = sum((end - now) * len(uuids) for end, uuids in ends)
    return Run(seconds, looks, overtaken(started), (used - unused) / (now * GPUS))


def overtaken(started: list[Waiting]) -> int:
    """Return how many jobs started after a later one of the same size and owner."""
    latest: dict[tuple[str, GpuRequest], int] = defaultdict(lambda: -1)
    count = 0
    for job in started:
        count += job.sequence < latest[job.owner, job.request]
        latest[job.owner, job.request] = max(job.sequence, latest[job.owner, job.request])
    return count


def _require(given_once: bool) -> None:
    if not given_once:
        raise RuntimeError("A GPU was given twice")
