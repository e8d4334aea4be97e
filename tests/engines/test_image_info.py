"""What is told of an image of this host."""

from __future__ import annotations

from typing import Any

import docker_images
import pytest

from jupyter_dlenv.engines.docker.engine import DockerEngine
from jupyter_dlenv.engines.docker.state import image_info

FIRST, SECOND = "sha256:" + "1" * 64, "sha256:" + "2" * 64
INSPECTED: dict[str, Any] = {
    "Created": "2026-11-22T10:48:15Z",
    "Size": 5,
    "RepoDigests": [f"lab/torch@{FIRST}", f"host:5000/torch@{SECOND}"],
    "Config": {
        "Env": ["A=1", "B=x=y"],
        "Entrypoint": ["/entry", "-x"],
        "Cmd": ["train.py"],
        "WorkingDir": "/app",
    },
}


def test_an_image_tells_what_it_runs_by_itself() -> None:
    info = image_info("sha256:id", "lab/torch:1", INSPECTED)
    assert (info.command, info.workdir, info.digest) == (("/entry", "-x", "train.py"), "/app", FIRST)
    assert (info.env, info.created) == ({"A": "1", "B": "x=y"}, 1795344495)


@pytest.mark.parametrize(
    ("ref", "digest"),
    [
        ("lab/torch", FIRST),
        (f"lab/torch@{FIRST}", FIRST),
        ("host:5000/torch", SECOND),
        ("host:5000/torch:1", SECOND),
        ("sha256:id", FIRST),
        ("renamed:1", FIRST),
    ],
)
def test_the_digest_is_the_one_of_the_registry_that_was_named(ref: str, digest: str) -> None:
    assert image_info("sha256:id", ref, INSPECTED).digest == digest


@pytest.mark.parametrize("config", [{"Entrypoint": None, "Cmd": None, "WorkingDir": "", "Env": None}, {}, None])
def test_an_image_that_runs_nothing_and_came_from_nowhere(config: dict[str, Any] | None) -> None:
    info = image_info("sha256:id", "a:1", {"Created": "2026-11-22T10:48:15Z", "RepoDigests": None, "Config": config})
    assert (info.command, info.workdir, info.digest) == ((), "", "")


@pytest.mark.docker
async def test_only_a_closer_look_tells_it() -> None:
    base, engine = docker_images.base_image(), DockerEngine()
    assert (await engine.image(base)).command == ("sh",)
    (listed,) = [info for info in await engine.images() if info.ref == base]
    assert (listed.command, listed.workdir, listed.digest) == ((), "", "")
