"""What is granted, or waits, for one kernel, job or shell; and that nothing taken is left lying about."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ..resources import GpuGrant, GpuRequest
from .ledger import Record
from .schedule import Place

T = TypeVar("T")


@dataclass(frozen=True)
class Lease:
    """GPUs that were granted; its holder gives them back by :meth:`close`, or by ending.

    Attributes:
        record: What stands for it in the ledger, None where nothing was asked for.
        request: What it was granted for.
    """

    gpus: GpuGrant = field(default_factory=GpuGrant)
    record: Record | None = None
    request: GpuRequest = field(default_factory=GpuRequest)

    @property
    def open(self) -> bool:
        """True until it was given back, or handed over."""
        return self.record is not None and self.record.descriptor >= 0

    def leave(self) -> None:
        """Leave the GPUs to the process that inherited the record."""
        if self.record is not None:
            self.record.leave()

    def close(self) -> None:
        """Give the GPUs back; a container's label goes on holding them until it has ended."""
        if self.record is not None:
            self.record.release()


@dataclass(frozen=True)
class Queued:
    """A request that waits.

    Attributes:
        record: Its record in the queue. Others may start it too, unless it was asked for by this process alone.
    """

    place: Place
    record: Record


async def kept(work: Callable[..., T], *arguments: Any) -> T:
    """Run what may take something in a thread; what it takes when nobody waits any more is given back."""
    task = asyncio.ensure_future(asyncio.to_thread(work, *arguments))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.add_done_callback(_give_back)
        raise


def _give_back(task: asyncio.Task[Any]) -> None:
    if task.cancelled() or task.exception() is not None:
        return
    taken = task.result()
    if isinstance(taken, Lease):
        taken.close()
    elif isinstance(taken, Queued):
        taken.record.release()
