"""What is asked of Docker about our containers, one exchange or a few each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from docker import APIClient
from docker.errors import APIError
from docker.errors import NotFound as ApiNotFound

from ...spec import JobStatus
from .request import LABEL_PREFIX, id_in, name_of
from .state import removed_status, status_of

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
        filters["name"] = [f"^/?{name_of(each, 0)[:-1]}\\d+$" for each in ids]
    found = client.containers(all=True, filters=filters)
    return [item for item in found if not ids or id_in(item["Names"][0]) in ids]


def inspect_all(client: APIClient, labels: Mapping[str, str], ids: Sequence[str] = ()) -> list[Mapping[str, Any]]:
    found = []
    for container in containers(client, labels, ids):
        try:
            found.append(client.inspect_container(container["Id"]))
        except ApiNotFound:
            continue  # removed between the two calls
    return found


def inspect_status(client: APIClient, container: str) -> JobStatus:
    try:
        return status_of(client.inspect_container(container))
    except ApiNotFound:
        return removed_status()
