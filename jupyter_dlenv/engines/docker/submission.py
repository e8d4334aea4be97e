"""All replicas of a plan as containers: what is there is adopted, what is missing is made."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from docker import APIClient
from docker.errors import APIError
from docker.errors import NotFound as ApiNotFound

from ...spec import JobSpec, Role
from ..base import Plan
from .containers import containers, remove_container
from .failures import image_missing, name_taken
from .gang import attempt_of
from .names import container_name, network_name
from .networks import discard_network, ensure_network, sweep_networks
from .request import LABEL_PREFIX, assert_safe
from .state import name_in

_SPEC = f"{LABEL_PREFIX}spec"
_CREATED = "created"
_QUIET_S, _LOOK_S, _RESERVED_S = 5.0, 0.1, 30.0

Found = Mapping[str, Any]


@dataclass(frozen=True)
class Containers:
    """The containers of a plan, the first replica's first.

    Attributes:
        ids: All that are there.
        waiting: Those of them that nobody has started yet.
    """

    ids: tuple[str, ...]
    waiting: tuple[str, ...]


def make(client: APIClient, plan: Plan) -> Containers:
    """Create a plan's containers and their network, as far as they are not there yet; none is started.

    Raises:
        Conflict: The job is something else already.
        ImageNotFound: The image is not on this host.
    """
    first, spec = container_name(plan.spec), plan.spec
    # A kernel's start counts its milliseconds, and whether its name is taken is told anyway.
    known = _settled(client, spec) if spec.role is Role.TRAINER or spec.replicas > 1 else {}
    # All are created before the first is started: one that is missing afterwards was removed from outside.
    give_up_at = time.monotonic() + _RESERVED_S
    while not _begun(known):
        made = known.get(first) or _create(client, plan, first, plan.requests[0])
        if made is None:  # somebody else was quicker, and goes on
            if time.monotonic() > give_up_at:
                raise name_taken(first)
            known = _settled(client, spec)
            continue
        with ExitStack() as undo:
            undo.callback(discard, client, spec)
            known = _complete(client, plan, {**known, first: made})
            undo.pop_all()
        break
    found = [known[name] for name in sorted(known, key=lambda name: (len(name), name))]
    waiting = [str(item["Id"]) for item in found if item["State"] == _CREATED]
    return Containers(tuple(str(item["Id"]) for item in found), tuple(waiting))


def _begun(known: Mapping[str, Found]) -> bool:
    return any(item["State"] != _CREATED for item in known.values())


def _settled(client: APIClient, spec: JobSpec) -> dict[str, Found]:
    """Return the containers that are there by name, once nobody seems to be making more of them.

    Who gets the name of the first makes all, because Docker makes two networks of one name for two who ask at once.
    """
    known, changed_at = _known(client, spec), time.monotonic()
    while network_name(spec) and known and not _begun(known) and time.monotonic() - changed_at < _QUIET_S:
        time.sleep(_LOOK_S)
        before, known = known, _known(client, spec)
        changed_at = changed_at if known.keys() == before.keys() else time.monotonic()
    return known


def _complete(client: APIClient, plan: Plan, known: Mapping[str, Found]) -> dict[str, Found]:
    names = [container_name(plan.spec, index) for index in range(len(plan.requests))]
    found = {}
    for name, body in zip(names, plan.requests, strict=True):
        found[name] = known.get(name) or _create(client, plan, name, body) or _found(client, name)
    if plan.spec.replicas > 1:
        sweep_networks(client)
        ensure_network(client, plan.spec)
    return found


def _known(client: APIClient, spec: JobSpec) -> dict[str, Found]:
    """Return the containers of this attempt by name, after those are gone that another spec's killed starter left."""
    found = [item for item in containers(client, {}, [spec.id]) if attempt_of(item) == spec.attempt]
    others = [item for item in found if item["Labels"].get(_SPEC) != spec.digest()]
    for item in others:
        if item["State"] != _CREATED:
            raise name_taken(name_in(item).lstrip("/"))
    for item in others:
        remove_container(client, item["Id"])
    return {name_in(item).lstrip("/"): item for item in found if item not in others}


def _create(client: APIClient, plan: Plan, name: str, body: Mapping[str, Any]) -> Found | None:
    """Create one container; None where the job has one of that name already."""
    assert_safe(body)
    try:
        return {**client.create_container_from_config(dict(body), name), "State": _CREATED}
    except ApiNotFound as error:
        raise image_missing(plan.spec.image_ref or str(plan.spec.image)) from error
    except APIError as error:
        if error.status_code != 409:
            raise
    try:
        if f"{LABEL_PREFIX}schema" not in client.inspect_container(name)["Config"]["Labels"]:
            raise name_taken(name)
    except ApiNotFound:
        time.sleep(_LOOK_S)  # a name is taken a moment before its container is there
    return None


def _found(client: APIClient, name: str) -> Found:
    found = client.inspect_container(name)
    return {"Id": found["Id"], "State": found["State"]["Status"]}


def discard(client: APIClient, spec: JobSpec) -> None:
    """Remove all containers of this attempt, and their network."""
    for item in containers(client, {"spec": spec.digest()}, [spec.id]):
        remove_container(client, item["Id"])
    if spec.replicas > 1:
        discard_network(client, spec)
