"""The networks of jobs with several replicas: what is swept up, and a daemon that has no addresses left."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import docker_images
import pytest
from docker import APIClient
from docker.errors import APIError
from own_daemon import Daemon, own_daemon
from requests import Response

from jupyter_dlenv.engines.docker import networks
from jupyter_dlenv.engines.docker.engine import DockerEngine
from jupyter_dlenv.engines.docker.failures import api_failure
from jupyter_dlenv.engines.docker.names import name_of, network_name
from jupyter_dlenv.engines.docker.request import network_request
from jupyter_dlenv.engines.docker.state import epoch
from jupyter_dlenv.errors import EngineError
from jupyter_dlenv.spec import Identity, JobSpec, JobState, Role, new_id

NOW = 1_800_000_000.0


def spec(**changes: Any) -> JobSpec:
    made = JobSpec(
        id=new_id(),
        role=Role.TRAINER,
        argv=("/bin/sleep", "600"),
        workdir="/",
        run_dir="/none",
        owner="networks",
        identity=Identity(65534, 65534),
        env={"PATH": "/usr/bin:/bin"},
        replicas=2,
    )
    return replace(made, **changes)


def test_docker_s_times_come_with_and_without_a_zone() -> None:
    assert epoch("2026-11-22T10:48:15.750147395Z") == pytest.approx(1795344495.750147)
    assert epoch("2026-11-22T18:48:15.75+08:00") == pytest.approx(1795344495.75)
    assert epoch("2026-11-22T10:48:15Z") == 1795344495
    assert [epoch(text) for text in ("", "0001-01-01T00:00:00Z", "soon")] == [None, None, None]


@pytest.mark.parametrize(
    "text",
    [
        "could not find an available, non-overlapping IPv4 address pool among the defaults to assign to the network",
        "all predefined address pools have been fully subnetted",
    ],
)
def test_a_daemon_without_addresses_gives_the_remedy(text: str) -> None:
    response = Response()
    response.status_code = 500
    error = api_failure(APIError("x", response, text))
    assert isinstance(error, EngineError)
    assert error.hint == "docker network prune"
    assert text not in error.message


def test_a_single_replica_has_no_network_of_its_own() -> None:
    assert [network_name(spec(replicas=1, network=network)) for network in ("bridge", "none", "host")] == [""] * 3


@pytest.fixture
def client() -> APIClient:
    return docker_images.engine()


@pytest.fixture
def network(client: APIClient) -> Iterator[networks.Network]:
    """A network of ours that a killed process left, with nothing in it."""
    owner = spec()
    client.create_network(**network_request(owner))
    (found,) = [each for each in networks._networks(client) if each["Name"] == name_of(owner.id, 1)]
    yield found
    networks.discard_network(client, owner)
    assert client.networks(names=[found["Name"]]) == []


@pytest.mark.docker
def test_a_new_network_waits_for_its_containers(client: APIClient, network: networks.Network) -> None:
    networks._sweep(client, [network])
    assert [each["Id"] for each in client.networks(names=[network["Name"]])] == [network["Id"]]


@pytest.mark.docker
def test_an_old_network_without_containers_is_swept_up(
    client: APIClient, network: networks.Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(networks, "_ORPHAN_S", -1.0)
    networks._sweep(client, [network])
    assert client.networks(names=[network["Name"]]) == []


@pytest.mark.docker
def test_an_old_network_stays_as_long_as_a_container_is_there(
    client: APIClient, network: networks.Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = {**network["Labels"], "io.jupyter-dlenv.role": "trainer"}
    image = docker_images.image_id(docker_images.base_image())
    made = client.create_container(image, ["true"], name=f"{network['Name']}-0", labels=labels)
    monkeypatch.setattr(networks, "_ORPHAN_S", -1.0)
    try:
        networks._sweep(client, [network])
        assert client.networks(names=[network["Name"]]), "its container was never started, and still may be"
    finally:
        client.remove_container(made["Id"], force=True)
    networks._sweep(client, [network])
    assert client.networks(names=[network["Name"]]) == []


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with own_daemon(docker_images.base_image()) as mine:
        yield mine


@pytest.mark.docker
@pytest.mark.slow
async def test_replicas_run_until_the_daemon_has_no_addresses_left(daemon: Daemon) -> None:
    """On a daemon whose default network is switched off, as on one that a site has locked down."""
    engine = DockerEngine(daemon.address)
    image = engine.call(lambda client: str(client.inspect_image(docker_images.base_image())["Id"]))
    first = spec(role=Role.KERNEL, image=image)
    assert (await engine.submit(engine.plan(first))).status.state is JobState.RUNNING
    await engine.remove(first.id)
    for number in range(64):
        try:
            engine.call(lambda client, name=f"full-{number}": client.create_network(name))
        except EngineError:
            break
    second = spec(role=Role.KERNEL, image=image)
    with pytest.raises(EngineError, match="no addresses left") as caught:
        await engine.submit(engine.plan(second))
    assert caught.value.hint == "docker network prune"
    assert await engine.list() == []
