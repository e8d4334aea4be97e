"""What is asked of the ledger, and how a request is written down while it waits. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..resources import GpuAccess, GpuGrant, GpuRequest
from .ledger import Entry
from .model import Inventory
from .schedule import Place, Waiting
from .state import UnitState


@dataclass(frozen=True)
class Ask:
    """A request for GPUs.

    Attributes:
        id: Of the kernel, job or shell; the lease belongs to it.
        role: ``kernel``, ``trainer`` or ``shell``.
        limit_s: After how many seconds a time limit ends it, None without one.
        by_process: Whether this process alone can use the GPUs, so that the request is void when it ends.
        on_host: Whether they are for a plain process, without a container.
    """

    id: str
    owner: str
    role: str
    name: str
    request: GpuRequest
    limit_s: float | None = None
    by_process: bool = True
    on_host: bool = False


@dataclass(frozen=True)
class Overview:
    """The GPUs of a host with who holds them and who waits.

    Attributes:
        queue: In the order in which they came.
        places: By id.
        entries: The queue's records by id.
    """

    inventory: Inventory
    states: tuple[UnitState, ...]
    queue: tuple[Waiting, ...]
    places: Mapping[str, Place]
    entries: Mapping[str, Entry]


def on_host(uuids: Sequence[str], *, shared: bool) -> GpuGrant:
    """Return a grant for a plain process, which only its variables keep from the other GPUs."""
    names = ",".join(uuids)
    env = {"CUDA_VISIBLE_DEVICES": names, "NVIDIA_VISIBLE_DEVICES": names}
    return GpuGrant(tuple(uuids), GpuAccess.HOST, env=env, shared=shared)


def ask_of(data: Mapping[str, Any]) -> Ask | None:
    """Return what waits; None for what another version wrote, or anybody else."""
    try:
        request = dict(data["request"])
        request["names"] = tuple(map(str, request["names"]))
        major, minor = request["min_capability"]
        request["min_capability"] = (int(major), int(minor))
        limit = data["limit_s"]
        return Ask(
            id=str(data["id"]),
            owner=str(data["owner"]),
            role=str(data["role"]),
            name=str(data["name"]),
            request=GpuRequest(**request),
            limit_s=float(limit) if limit is not None else None,
            by_process=bool(data["by_process"]),
            on_host=bool(data["on_host"]),
        )
    except (KeyError, TypeError, ValueError):
        return None


def waiting_in(entry: Entry, served: set[int]) -> Waiting | None:
    """Return what a record of the queue says; None when it is void.

    Args:
        served: Users of whom a process lives that starts their jobs.
    """
    ask = ask_of(entry.data)
    if ask is None or (ask.by_process and not entry.alive):
        return None
    number = entry.name.partition("-")[0]
    alive = entry.alive if ask.by_process else entry.uid in served
    return Waiting(ask.id, ask.owner, ask.request, int(number) if number.isdigit() else 0, alive, ask.limit_s)
