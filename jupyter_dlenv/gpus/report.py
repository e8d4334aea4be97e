"""The GPUs of a host as rows for the API, the command line and the magic. Pure."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from .asks import Overview
from .line import Waiting
from .state import Holder, UnitState, usage


def report(view: Overview) -> dict[str, Any]:
    """Return what ``GET /gpus`` answers."""
    inventory = view.inventory
    return {
        "state": inventory.state.value,
        "message": inventory.message,
        "driver": inventory.driver,
        "cuda": inventory.cuda,
        "taken_at": inventory.taken_at,
        "gpus": [_row(state, view) for state in view.states],
        "links": [asdict(link) for link in inventory.links],
        "queue": [_waiting(item, view) for item in view.queue],
    }


def _row(state: UnitState, view: Overview) -> dict[str, Any]:
    unit, gpu = state.unit, state.unit.gpu
    whole = unit.mig is None
    return {
        "index": unit.name,
        "uuid": unit.uuid,
        "name": gpu.name,
        "mig": unit.mig.profile if unit.mig else "",
        "gpu_uuid": gpu.uuid,
        "memory_total_bytes": unit.memory_total_bytes,
        "memory_used_bytes": unit.memory_used_bytes,
        "utilization_percent": gpu.utilization_percent if whole else None,
        "memory_utilization_percent": gpu.memory_utilization_percent if whole else None,
        "temperature_c": gpu.temperature_c,
        "power_w": gpu.power_w,
        "power_limit_w": gpu.power_limit_w,
        "capability": ".".join(map(str, gpu.capability)) if gpu.capability else None,
        "numa_node": gpu.numa_node,
        "bus_id": gpu.bus_id,
        "ecc_uncorrected": gpu.ecc_uncorrected,
        "xids": list(gpu.xids),
        "health": gpu.health.value,
        "problem": gpu.problem,
        "state": state.standing.value,
        "reason": state.reason,
        "foreign_pids": list(state.foreign),
        "processes": None if unit.processes is None else [asdict(process) for process in unit.processes],
        "holders": [_holder(holder, view) for holder in state.holders],
    }


def _holder(holder: Holder, view: Overview) -> dict[str, Any]:
    memory, percent = usage(holder, view.states)
    return {
        "id": holder.id,
        "role": holder.role,
        "name": holder.name,
        "owner": holder.owner,
        "shared": holder.shared,
        "ends_at": holder.ends_at,
        "memory_bytes": memory,
        "utilization_percent": percent,
    }


def _waiting(item: Waiting, view: Overview) -> dict[str, Any]:
    place, data = view.places[item.id], view.entries[item.id].data
    return {
        "id": item.id,
        "role": data.get("role", ""),
        "name": data.get("name", ""),
        "owner": item.owner,
        "gpus": str(item.request),
        "place": place.position,
        "reason": place.reason,
        "since": data.get("since"),
        "served": item.alive,
    }
