"""The GPUs of the host for people who look: their state now, and every change as it comes."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import InvalidRequest, JobNotFound
from ..gpus.leases import Leases
from ..gpus.model import Inventory
from ..gpus.report import report
from ..gpus.sampler import SAMPLER
from ..i18n import _
from ..spec import Role

_MOST_HZ = 10
_BEAT_S = 1.0


@dataclass(frozen=True)
class GpuFrame:
    """The GPUs of the host at one moment, as ``GET /gpus`` answers."""

    data: Mapping[str, Any]

    def to_bytes(self) -> bytes:
        """Return the frame for the wire."""
        return json.dumps({"bytes": 0, **self.data}, ensure_ascii=False).encode("utf-8", "replace") + b"\n"


def rate_of(text: str) -> int:
    """Return how many frames a second are asked for.

    Raises:
        InvalidRequest: It is no number from 1 to 10.
    """
    if not (text.isascii() and text.isdigit() and len(text) < 3 and 1 <= int(text) <= _MOST_HZ):
        raise InvalidRequest(_("hz is a number from 1 to {n}.").format(n=_MOST_HZ))
    return int(text)


async def frames(leases: Leases, hz: int) -> AsyncIterator[GpuFrame]:
    """Yield the state now, and again with each sample; while anybody reads, the sampler is as fast as he asks."""
    loop, news = asyncio.get_running_loop(), asyncio.Event()

    def tell(_inventory: Inventory) -> None:
        loop.call_soon_threadsafe(news.set)

    unsubscribe = SAMPLER.subscribe(tell, hz)
    try:
        while True:
            yield GpuFrame(report(await asyncio.to_thread(leases.recent_overview, 0.9 / hz)))
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(news.wait(), _BEAT_S)  # who holds and who waits changes without the driver, too
            news.clear()
    finally:
        unsubscribe()


async def call_off(leases: Leases, owner: str, kernel_id: str) -> None:
    """Take a kernel out of the queue; its start then fails.

    Raises:
        JobNotFound: No kernel of this owner waits under this id.
    """
    view = await asyncio.to_thread(leases.overview)
    kernels = {key for key, entry in view.entries.items() if entry.data.get("role") == Role.KERNEL.value}
    mine = {item.id for item in view.queue if item.owner == owner} & kernels
    if kernel_id not in mine or not await asyncio.to_thread(leases.cancel, kernel_id):
        raise JobNotFound(_("No kernel {id} waits for GPUs.").format(id=kernel_id[:80]), hint="jupyter dlenv gpus")
