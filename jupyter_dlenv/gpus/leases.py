"""Who holds which GPU: read from the engine's labels, which outlive every process of ours."""

from __future__ import annotations

import asyncio

from ..engines.base import Engine
from ..spec import GpuRequest
from .choice import choose
from .inventory import read_inventory


async def lease(engine: Engine, request: GpuRequest) -> tuple[str, ...]:
    """Return the UUIDs that a request gets; asks neither driver nor engine where no GPU is wanted.

    Raises:
        NoGpu: Fewer are free than asked for.
    """
    if not request.wanted:
        return ()
    inventory = await asyncio.to_thread(read_inventory)
    return choose(request, inventory, await held(engine))


async def held(engine: Engine) -> set[str]:
    """Return the UUIDs on the labels of everything that has not ended."""
    jobs = [job for job in await engine.list() if not job.status.state.ended]
    return {uuid for job in jobs for uuid in job.labels.get("lease", "").split(",") if uuid}
