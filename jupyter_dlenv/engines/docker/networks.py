"""The private networks of jobs with several replicas: made with them, removed with them, and swept up after a kill."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from docker import APIClient
from docker.errors import APIError
from docker.errors import NotFound as ApiNotFound

from ...spec import JobSpec
from .containers import containers
from .failures import network_taken
from .gang import attempt_of
from .names import network_name
from .request import LABEL_PREFIX, network_request
from .state import epoch, job_id_of

_ORPHAN_S = 60.0
_MTU = "com.docker.network.driver.mtu"

Network = Mapping[str, Any]


def ensure_network(client: APIClient, spec: JobSpec) -> None:
    """Make the private network of a job's replicas, or adopt the one that is there; nothing where they have none.

    Raises:
        Conflict: Something else has its name.
    """
    name = network_name(spec)
    if not name:
        return
    request = network_request(spec)
    request["options"] = {**_usual_options(client), **request["options"]}
    try:
        client.create_network(**request)
    except APIError as error:
        if error.status_code != 409:
            raise
        labels = client.inspect_network(name).get("Labels") or {}
        if labels.get(f"{LABEL_PREFIX}id") != spec.id:
            raise network_taken(name) from error
        if labels.get(f"{LABEL_PREFIX}spec") != spec.digest():  # of a starter that was killed
            client.remove_network(name)
            ensure_network(client, spec)


def _usual_options(client: APIClient) -> dict[str, str]:
    """Return the packet size that the daemon was set up with: it counts for the default network alone."""
    try:
        options = client.inspect_network("bridge").get("Options") or {}
    except ApiNotFound:
        return {}
    return {_MTU: options[_MTU]} if _MTU in options else {}


def remove_networks(client: APIClient, job_id: str, attempt: int | None = None) -> None:
    """Remove a job's networks, up to those of an attempt, and all that a killed process left behind."""
    ours = _networks(client)
    stale = _of_job(job_id, attempt)
    for network in [each for each in ours if stale(each)]:
        _remove(client, network)
    _sweep(client, [each for each in ours if not stale(each)])


def discard_network(client: APIClient, spec: JobSpec) -> None:
    """Remove the network that was made for this very spec."""
    for network in _networks(client, f"{LABEL_PREFIX}spec={spec.digest()}"):
        _remove(client, network)


def sweep_networks(client: APIClient) -> None:
    """Remove the networks whose containers are gone."""
    _sweep(client, _networks(client))


def _networks(client: APIClient, *labels: str) -> list[Network]:
    found = client.networks(filters={"label": [f"{LABEL_PREFIX}schema", f"{LABEL_PREFIX}id", *labels]})
    return [{**network, "Names": [network["Name"]]} for network in found]


def _of_job(job_id: str, attempt: int | None) -> Callable[[Network], bool]:
    return lambda network: job_id_of(network) == job_id and (attempt is None or attempt_of(network) <= attempt)


def _sweep(client: APIClient, networks: list[Network]) -> None:
    """Remove the networks that are old enough to have had containers, and have none."""
    now = time.time()
    old = [network for network in networks if now - (epoch(network["Created"]) or now) > _ORPHAN_S]
    ids = sorted({job_id_of(network) for network in old})
    used = {(job_id_of(item), attempt_of(item)) for item in containers(client, {}, ids)} if ids else set()
    for network in old:
        if (job_id_of(network), attempt_of(network)) not in used:
            _remove(client, network)


def _remove(client: APIClient, network: Network) -> None:
    """Remove a network; one that is gone is fine, and one that somebody uses stays until nobody does."""
    try:
        client.remove_network(network["Id"])
    except APIError as error:
        if error.status_code not in (403, 404, 409):
            raise
