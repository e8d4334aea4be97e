"""The containers of one attempt as one job. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ...i18n import _
from ...spec import End, Job, JobState, JobStatus, Reason
from .request import LABEL_PREFIX
from .state import is_known, job_id_of


def newest_attempts(listed: Iterable[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Return the containers of the newest attempt of each job, from entries of Docker's list."""
    found: dict[str, dict[int, list[Mapping[str, Any]]]] = {}
    for item in listed:
        if is_known(item["Labels"]):
            found.setdefault(job_id_of(item), {}).setdefault(attempt_of(item), []).append(item)
    return [attempts[max(attempts)] for attempts in found.values()]


def attempt_of(item: Mapping[str, Any]) -> int:
    """Return the attempt that a container or network belongs to."""
    return int((item["Labels"] or {}).get(f"{LABEL_PREFIX}attempt", 1))


def combined(replicas: Sequence[Job], first: int | None = None) -> Job:
    """Return what the containers of one attempt are together.

    Args:
        replicas: One job each, at least one.
        first: Which replica told that it failed first, None where none did.
    """
    by_node = {int(job.labels.get("node", 0)): job for job in replicas}
    leader = by_node[min(by_node)]
    nodes = int(leader.labels.get("nodes", 1))
    if nodes == 1:
        return leader
    leases = ",".join(lease for node in sorted(by_node) if (lease := by_node[node].labels.get("lease")))
    statuses = {node: job.status for node, job in by_node.items()}
    status = gang_status(statuses, nodes, End(leader.labels.get("ends", End.ALL)), first)
    return replace(leader, status=status, labels={**leader.labels, "lease": leases})


def gang_status(
    replicas: Mapping[int, JobStatus], nodes: int, ends: End = End.ALL, first: int | None = None
) -> JobStatus:
    """Return where a job of several replicas stands.

    Args:
        replicas: The status of each that is still there, by its number.
        nodes: How many were made.
        ends: Whether the first of them alone decides.
        first: Which replica told that it failed first, None where none did.
    """
    every = [replicas[node] for node in sorted(replicas)]
    started_at = min((status.started_at for status in every if status.started_at is not None), default=None)
    together = replace(every[0], started_at=started_at)
    if any(not status.state.ended for status in every):
        waits = all(status.state is JobState.STARTING for status in every)
        state = JobState.STARTING if waits else JobState.RUNNING
        return replace(together, state=state, exit_code=None, reason=None, message="", finished_at=None)
    finished_at = max((status.finished_at for status in every if status.finished_at is not None), default=None)
    together = replace(together, finished_at=finished_at)
    gone = [node for node in range(nodes) if node not in replicas]
    if gone:
        message = _("The container of node {node} was removed from outside.").format(node=gone[0])
        return replace(together, state=JobState.FAILED, exit_code=None, reason=Reason.REMOVED, message=message)
    return _as_of(together, replicas, decisive(replicas, ends, first))


def _as_of(together: JobStatus, replicas: Mapping[int, JobStatus], node: int) -> JobStatus:
    one = replicas[node]
    message = _("Node {node}: {message}").format(node=node, message=one.message) if one.message else ""
    return replace(together, state=one.state, exit_code=one.exit_code, reason=one.reason, message=message)


def decisive(replicas: Mapping[int, JobStatus], ends: End, first: int | None = None) -> int:
    """Return whose end is the job's end, once all have ended.

    Where one fails all others are stopped, so what counts is who failed first. The replicas know it best: the container
    of the first of them stays until it has written down what the others said. Without their word it is when containers
    ended, or the leader where there is one.
    """
    failed = [node for node in sorted(replicas) if replicas[node].exit_code != 0]
    if not failed or (ends is End.LEADER and 0 not in failed):
        return 0
    if first is not None and first in failed:
        return first
    return 0 if ends is End.LEADER else min(failed, key=lambda node: replicas[node].finished_at or math.inf)


def has_failed(replicas: Sequence[Job]) -> bool:
    """True when several containers have all ended, one of them badly: only then does it matter which was the first."""
    codes = [job.status.exit_code for job in replicas if job.status.state.ended]
    return len(replicas) > 1 and len(codes) == len(replicas) and any(code != 0 for code in codes)
