"""What is asked of Docker about our containers, one exchange or a few each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from docker import APIClient
from docker.errors import APIError
from docker.errors import NotFound as ApiNotFound

from ...spec import Job, JobStatus, Role
from ..folder import RunFolder
from .gang import combined, has_failed, newest_attempts
from .names import id_in, name_filter
from .request import LABEL_PREFIX
from .state import is_live, job_of, listed_job, name_in, removed_status, status_of

_NAMES_IN_A_FILTER = 50


def remove_container(client: APIClient, container: str) -> None:
    """Remove a container with its anonymous volumes; one that is gone or on its way out is fine."""
    try:
        client.remove_container(container, v=True, force=True)
    except APIError as error:
        if error.status_code not in (404, 409):
            raise


def run_short(client: APIClient, body: Mapping[str, Any], timeout_s: int) -> tuple[int, bytes]:
    container = client.create_container_from_config(dict(body))["Id"]
    try:
        client.start(container)
        code = client.wait(container, timeout=timeout_s)["StatusCode"]
        return int(code), bytes(client.logs(container, stdout=True, stderr=True))
    finally:
        remove_container(client, container)


def containers(client: APIClient, labels: Mapping[str, str], ids: Sequence[str] = ()) -> list[Mapping[str, Any]]:
    """Return our containers with these labels and, if any are given, of these ids; ids are looked for in names."""
    wanted = [f"{LABEL_PREFIX}schema", *(f"{LABEL_PREFIX}{key}={value}" for key, value in labels.items())]
    filters: dict[str, Any] = {"label": wanted}
    if 0 < len(ids) <= _NAMES_IN_A_FILTER:
        filters["name"] = [name_filter(each) for each in ids]
    wished = set(ids)
    found = client.containers(all=True, filters=filters)
    return [item for item in found if not wished or id_in(name_in(item)) in wished]


def jobs(client: APIClient, labels: Mapping[str, str], ids: Sequence[str] = (), *, closely: bool = False) -> list[Job]:
    """Return the newest attempt of each of our jobs: one call for all of them, and one more for each ended container.

    Args:
        closely: Whether to look at each container for itself, which tells when it was started.
    """
    attempts = newest_attempts(containers(client, labels, ids))
    found = [[job for item in items if (job := _look(client, item, closely))] for items in attempts]
    return [_together(replicas) for replicas in found if replicas]


def inspect_job(client: APIClient, ids: Sequence[str]) -> Job:
    """Return the job that these containers are."""
    return _together([job_of(client.inspect_container(container)) for container in ids])


def _look(client: APIClient, item: Mapping[str, Any], closely: bool) -> Job | None:
    if is_live(item) and not closely:
        return listed_job(item)
    try:
        return job_of(client.inspect_container(item["Id"]))
    except ApiNotFound:
        return None  # removed between the two calls


def _together(replicas: Sequence[Job]) -> Job:
    told = replicas[0].role is Role.TRAINER and has_failed(replicas)
    first = RunFolder(Path(replicas[0].labels["run-dir"])).first_failure() if told else None
    return combined(replicas, first)


def inspect_status(client: APIClient, container: str) -> JobStatus:
    try:
        return status_of(client.inspect_container(container))
    except ApiNotFound:
        return removed_status()
