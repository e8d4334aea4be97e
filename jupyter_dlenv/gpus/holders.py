"""Who holds which GPUs, told by containers' labels and by the ledger's records. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..engines.docker.state import never_started
from ..resources import GpuGrant
from ..spec import Job, leased_by
from .asks import Ask, finite
from .ledger import Entry
from .state import Holder


def holders_by_uuid(jobs: Iterable[Job], records: Iterable[Entry], now: float) -> dict[str, list[Holder]]:
    """Return the holders of each GPU; a holder with a container and a record is one.

    Args:
        jobs: Containers that have not ended.
        records: The ledger's leases.
        now: Seconds since the epoch.
    """
    living = {entry.name: entry for entry in records if entry.alive}
    found: dict[str, dict[str, Holder]] = {}
    for name, entry in living.items():
        uuids = entry.data.get("uuids")
        for uuid in uuids if isinstance(uuids, list) else []:
            found.setdefault(str(uuid), {})[name] = _holder_in(entry)
    for job in jobs:
        if not never_started(job, now) or job.id in living:
            for uuid in leased_by(job.labels):
                found.setdefault(uuid, {})[job.id] = _holder_of(job)
    return {uuid: list(holders.values()) for uuid, holders in found.items()}


def _holder_of(job: Job) -> Holder:
    limit = job.labels.get("limit", "")
    ends = (job.status.started_at or 0) + float(limit) if limit else None
    shared = job.labels.get("shared") == "1"
    return Holder(job.id, job.owner, job.role.value, job.name, job.native_id, shared, ends)


def _holder_in(entry: Entry) -> Holder:
    data = entry.data
    try:
        ends = finite(data.get("ends_at"))
    except ValueError:
        ends = None
    return Holder(
        id=entry.name,
        owner=str(data.get("owner", "")),
        role=str(data.get("role", "")),
        name=str(data.get("name", "")),
        native_id=str(data.get("native_id", "")),
        shared=data.get("shared") is True,
        ends_at=ends,
    )


def lease_data(ask: Ask, gpus: GpuGrant, *, pid: int, now: float) -> dict[str, Any]:
    """Return what a lease's record says."""
    ends = now + ask.limit_s if ask.limit_s else None
    about = {"owner": ask.owner, "role": ask.role, "name": ask.name, "pid": pid, "ends_at": ends}
    return {**about, "uuids": list(gpus.uuids), "shared": gpus.shared}
