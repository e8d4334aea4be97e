"""Pulls from a real registry on the loopback, which Docker trusts without TLS."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import docker_images
import pytest
from clients import environment, notebook
from registry import running_registry

from jupyter_dlenv.engines.base import PullProgress
from jupyter_dlenv.engines.docker.engine import DockerEngine
from jupyter_dlenv.errors import ImageNotFound, InvalidRequest, PullFailed
from jupyter_dlenv.images.pull import pull_with_progress
from jupyter_dlenv.images.reference import Reference, parse_reference, require_image


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A registry's address, with the bare image in it as ``lab/bare:1``."""
    with running_registry(tmp_path_factory.mktemp("registry")) as address:
        yield address


@pytest.mark.docker
async def test_a_pull_tells_its_progress(registry: str) -> None:
    engine, ref = DockerEngine(), f"{registry}/lab/bare:1"
    with pytest.raises(ImageNotFound):
        await engine.image(ref)
    steps: list[PullProgress] = [step async for step in engine.pull(ref)]
    try:
        assert (await engine.image(ref)).id == docker_images.image_id(docker_images.BASE)
        assert steps
    finally:
        docker_images.engine().remove_image(ref)


@pytest.mark.docker
@pytest.mark.parametrize("name", ["lab/bare:2", "lab/nothing:1"])
async def test_a_pull_that_fails_says_so(registry: str, name: str) -> None:
    said: list[str] = []
    with pytest.raises((PullFailed, ImageNotFound)) as caught:
        await pull_with_progress(DockerEngine(), f"{registry}/{name}", said.append)
    assert name.partition(":")[0] in str(caught.value)


@pytest.mark.docker
async def test_without_a_server_a_start_pulls_first(
    registry: str, notebook_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ref = f"{registry}/lab/bare:1"
    environment("pulled", image=ref)
    try:
        async with notebook("pulled", notebook_dir) as book:
            assert (await book.run("print(6 * 7)")).text == "42\n"
        assert f"Pulling {ref}" in capsys.readouterr().err
    finally:
        docker_images.engine().remove_image(ref)


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("torch", Reference("torch", "latest", "")),
        ("a/b:1", Reference("a/b", "1", "")),
        ("reg.example:5000/a/b", Reference("reg.example:5000/a/b", "latest", "")),
        ("a@sha256:" + "0" * 64, Reference("a", "", "sha256:" + "0" * 64)),
        ("a:1@sha256:" + "0" * 64, Reference("a", "1", "sha256:" + "0" * 64)),
    ],
)
def test_references_are_read(text: str, reference: Reference) -> None:
    assert parse_reference(text) == reference


@pytest.mark.parametrize(
    "text",
    [
        "",
        "A/b",
        "a b",
        "a;b",
        "$(id)",
        "`id`",
        "-a",
        "--privileged",
        "a\n",
        "a//b",
        "a/",
        ":",
        "a:",
        "a@b",
        "x" * 600,
        "é",
    ],
)
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_reference(text)


def test_an_image_id_names_an_image() -> None:
    assert require_image("sha256:" + "a" * 64) == "sha256:" + "a" * 64
    assert require_image("deadbeef0123") == "deadbeef0123"
