"""What containers and networks of a job are called. Pure."""

from __future__ import annotations

import re

from ...spec import JobSpec

_NAME = re.compile(r"dlenv-([0-9a-f-]{36})-\d+(-\d+)?")


def name_of(job_id: str, attempt: int) -> str:
    """Return the name of one attempt's container or network. Whose it is, a name says: unlike a label it can change."""
    return f"dlenv-{job_id}-{attempt}"


def container_name(spec: JobSpec, index: int = 0) -> str:
    """Return the deterministic name that makes a repeated create a conflict instead of a second container."""
    name = name_of(spec.id, spec.attempt)
    return f"{name}-{index}" if spec.replicas > 1 else name


def id_in(name: str) -> str:
    """Return the job's id in a container's name, empty when the name is not one of ours."""
    found = _NAME.fullmatch(name.lstrip("/"))
    return found.group(1) if found else ""


def name_filter(job_id: str) -> str:
    """Return the pattern by which Docker finds the containers of all attempts of a job."""
    return f"^/?{name_of(job_id, 0)[:-1]}\\d+(-\\d+)?$"


def network_name(spec: JobSpec) -> str:
    """Return the name of the network that the replicas have for themselves, empty where they have none."""
    private = spec.replicas > 1 and spec.network in ("bridge", "none")
    return name_of(spec.id, spec.attempt) if private else ""


def host_name(spec: JobSpec, index: int = 0) -> str:
    """Return what a replica calls itself; in a private network the others call it so too."""
    return f"node-{spec.node_rank + index}" if network_name(spec) else f"dlenv-{spec.id[:8]}"
