"""What is asked of the ledger, and how a request is written down while it waits. Pure."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..resources import GpuAccess, GpuGrant, GpuRequest
from .ledger import Entry, number_of
from .model import Inventory
from .schedule import Place, Waiting
from .state import UnitState

_MOST = 1 << 60


@dataclass(frozen=True)
class Ask:
    """A request for GPUs.

    Attributes:
        id: Of the kernel, job or shell; the lease belongs to it.
        role: ``kernel``, ``trainer`` or ``shell``.
        limit_s: After how many seconds a time limit ends it, None without one.
        by_process: Whether this process alone can use the GPUs, so that the request is void when it ends.
        on_host: Whether they are for a plain process, without a container.
        folder: Where the job's record lies, for whoever else may start it.
        replicas: To how many containers the GPUs are shared out.
    """

    id: str
    owner: str
    role: str
    name: str
    request: GpuRequest
    limit_s: float | None = None
    by_process: bool = True
    on_host: bool = False
    folder: str = ""
    replicas: int = 1


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


def stand_ins(ask: Ask, count: int, access: GpuAccess) -> GpuGrant:
    """Return what a request would be granted, with names that no GPU has: for one that has to wait, to be looked at."""
    names = tuple(f"GPU-granted-later-{number}" for number in range(1, count + 1))
    if access is GpuAccess.HOST:
        return on_host(names, shared=ask.request.shared)
    known = {GpuAccess.TOOLKIT: names, GpuAccess.CDI: tuple(f"nvidia.com/gpu={name}" for name in names)}.get(access, ())
    whole = GpuGrant(names, access, known, shared=ask.request.shared)
    each = count // ask.replicas
    parts = (slice(at * each, (at + 1) * each) for at in range(ask.replicas))
    shares = tuple(replace(whole, uuids=names[part], devices=known[part]) for part in parts)
    return replace(whole, shares=shares if ask.replicas > 1 else ())


def ask_of(data: Mapping[str, Any]) -> Ask | None:
    """Return what waits; None for what another version wrote, or anybody else."""
    try:
        limit = data["limit_s"]
        return Ask(
            id=str(data["id"]),
            owner=str(data["owner"]),
            role=str(data["role"]),
            name=str(data["name"]),
            request=_request_of(data["request"]),
            limit_s=None if limit is None else finite(limit),
            by_process=_truth(data["by_process"]),
            on_host=_truth(data["on_host"]),
            folder=str(data["folder"]),
        )
    except (KeyError, TypeError, ValueError):
        return None


def _request_of(data: Mapping[str, Any]) -> GpuRequest:
    major, minor = data["min_capability"]
    names = tuple(map(str, data["names"]))
    every, count = _truth(data["every"]), _whole(data["count"])
    if not (every or count):
        raise ValueError(count)
    return GpuRequest(
        count=count,
        every=every,
        names=names,
        busy=_truth(data["busy"]),
        shared=_truth(data["shared"]),
        min_memory_bytes=_whole(data["min_memory_bytes"]),
        min_capability=(_whole(major), _whole(minor)),
    )


def _truth(value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise TypeError(value)


def _whole(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MOST:
        return value
    raise ValueError(value)


def finite(value: object) -> float:
    """Return a number that can be one of seconds.

    Raises:
        ValueError: It is no number, or an absurd one.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool) and -_MOST < value < _MOST:
        return float(value)
    raise ValueError(value)


def waiting_in(entry: Entry, served: Container[tuple[int, str]]) -> Waiting | None:
    """Return what a record of the queue says; None when it is void.

    Args:
        served: User and folder of jobs, where a process lives that starts them.
    """
    ask, number = ask_of(entry.data), number_of(entry.name)
    if ask is None or number is None or (ask.by_process and not entry.alive):
        return None
    alive = entry.alive if ask.by_process else (entry.uid, ask.folder) in served
    return Waiting(ask.id, ask.owner, ask.request, number, alive, ask.limit_s)
