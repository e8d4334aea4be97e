"""The kernels of an owner as one list: what engines hold, joined with what this process knows of them. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..spec import Job, Role, leased_by
from .board import Report


def kernel_rows(jobs: Iterable[Job], reports: Iterable[Report]) -> list[dict[str, Any]]:
    """Return a row for each kernel that starts, runs or ended unasked; kernels that wait in a pool are not anybody's.

    Args:
        jobs: What the engines hold.
        reports: What this process knows, for whom that is meant.
    """
    rows = {job.id: _row_of_job(job) for job in jobs if _is_kernel(job) and not job.status.state.ended}
    for report in reports:
        rows[report.kernel_id] = _joined(rows.get(report.kernel_id), report)
    return list(rows.values())


def _is_kernel(job: Job) -> bool:
    waiting = job.labels.get("pool") == "1" and job.labels.get("id") == job.id
    return job.role is Role.KERNEL and not waiting


def _row_of_job(job: Job) -> dict[str, Any]:
    return {
        "id": job.id,
        "environment": job.environment,
        "image": job.image_ref,
        "engine": job.engine,
        "state": job.status.state.value,
        "native_id": job.native_id,
        "started_at": job.status.started_at,
        "message": "",
        "last_lines": "",
        "ended_at": None,
        "gpus": list(leased_by(job.labels)),
    }


def _joined(row: dict[str, Any] | None, report: Report) -> dict[str, Any]:
    """Return a row with what this process knows, which after a kernel's end is all that is known."""
    known: dict[str, Any] = {
        "id": report.kernel_id,
        "environment": report.environment,
        "image": report.image,
        "engine": report.engine,
        "native_id": "",
        "started_at": None,
        "gpus": [],
    }
    said = {
        "state": report.phase.value,
        "message": report.message or report.why,
        "last_lines": report.last_lines,
        "ended_at": report.ended_at,
    }
    return {**known, **(row or {}), **said}
