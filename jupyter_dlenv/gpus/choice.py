"""Which GPUs a request gets. Pure.

By UUID, never by count, because Docker turns a count into GPUs 0..N-1 for everybody.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..errors import NoGpu
from ..i18n import _
from ..spec import GpuRequest
from .inventory import Inventory


def choose(request: GpuRequest, inventory: Inventory, held: Iterable[str]) -> tuple[str, ...]:
    """Return the UUIDs for a request.

    Args:
        held: UUIDs that living kernels and jobs hold.

    Raises:
        NoGpu: Says what there is, who is in the way, and the command that works.
    """
    if not request.wanted:
        return ()
    taken = set(held)
    there = [gpu.uuid for gpu in inventory.gpus]
    free = [uuid for uuid in there if uuid not in taken]
    if request.uuids:
        chosen = [uuid for uuid in request.uuids if uuid in free]
        enough = len(chosen) == len(request.uuids)
    else:
        chosen = free if request.every else free[: request.count]
        enough = bool(free) if request.every else len(chosen) == request.count
    if not enough:
        raise NoGpu(_reason(request, inventory, len(free)), hint=_remedy(len(free)))
    return tuple(chosen)


def _reason(request: GpuRequest, inventory: Inventory, free: int) -> str:
    if not inventory.gpus:
        found = inventory.message or _("no device")
        return _("--gpus {asked}: this host has no GPU that the driver shows ({found}).").format(
            asked=request, found=found
        )
    return _("--gpus {asked}: {free} of {all} GPUs are free.").format(asked=request, free=free, all=len(inventory.gpus))


def _remedy(free: int) -> str:
    if free:
        return f"--gpus {free}"
    return _("Run on the CPU: leave --gpus out and give --nproc N. What there is: jupyter dlenv doctor")
