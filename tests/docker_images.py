"""Images for tests, built where they are missing and reused where they are there.

Nothing is pulled: the base comes from Debian's archive as the host's own configuration names it, packages come through
the host's pip as wheels in the build context, so no address or certificate of a site enters an image. A tag ends in a
digest of what the image was made from, so an engine that has it needs no second build.
"""

from __future__ import annotations

import functools
import hashlib
import io
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

import docker
import pytest
from docker.errors import DockerException, ImageNotFound

REPOSITORY = "dlenv-test"
BASE = f"{REPOSITORY}/base:1"
SUITE = "bookworm"
BASE_PACKAGES = "python3,python3-pip,python3-venv,ca-certificates"
BASE_PYTHON = "3.11"


@functools.cache
def engine() -> docker.APIClient:
    """Return the Docker engine's client; skips the test where no engine answers."""
    try:
        client = docker.APIClient(version="auto", timeout=600)
        client.ping()
    except DockerException as error:
        pytest.skip(f"no Docker engine: {error}")
    return client


def image_id(reference: str) -> str:
    """Return an image's ID, empty when the engine lacks it."""
    try:
        return str(engine().inspect_image(reference)["Id"])
    except ImageNotFound:
        return ""


@functools.cache
def base_image() -> str:
    """Return the reference of a Debian with Python 3.11, pip and venv, and nothing else."""
    if not image_id(BASE):
        with tempfile.TemporaryDirectory() as folder:
            _debootstrap(Path(folder, "root"), Path(folder, "root.tar"))
            changes = ["ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 'CMD ["sh"]']
            repository, _, tag = BASE.partition(":")
            engine().import_image(str(Path(folder, "root.tar")), repository, tag, changes=changes)
    return BASE


def _debootstrap(root: Path, tar: Path) -> None:
    program = shutil.which("debootstrap") or "/usr/sbin/debootstrap"
    if not Path(program).exists():
        pytest.skip("no debootstrap to make a base image with")
    subprocess.run([program, "--variant=minbase", f"--include={BASE_PACKAGES}", SUITE, str(root)], check=True)
    subprocess.run(["tar", "-C", str(root), "-cf", str(tar), "."], check=True)


@functools.cache
def image_from(dockerfile: str, name: str, *, wheels: tuple[str, ...] = ()) -> str:
    """Return the reference of an image, built by the classic builder when the engine lacks it.

    Args:
        dockerfile: Its text.
        name: Last part of the repository's name.
        wheels: Requirements whose wheels, with all they need, lie in the build context's folder ``wheels``.
    """
    if BASE in dockerfile:
        base_image()
    digest = hashlib.sha256("\0".join([dockerfile, *wheels]).encode()).hexdigest()[:12]
    reference = f"{REPOSITORY}/{name}:{digest}"
    if not image_id(reference):
        with tempfile.TemporaryDirectory() as folder:
            _download(wheels, Path(folder, "wheels"))
            _build(_context(dockerfile, Path(folder)), reference)
    return reference


def _download(requirements: Sequence[str], folder: Path) -> None:
    folder.mkdir()
    if not requirements:
        return
    machine = platform.machine()
    tags = [f"manylinux_2_{minor}_{machine}" for minor in range(36, 4, -1)]
    tags += [f"{alias}_{machine}" for alias in ("manylinux2014", "manylinux2010", "manylinux1")]
    where = [part for tag in tags for part in ("--platform", tag)]
    options = ["--quiet", "--only-binary=:all:", "--python-version", BASE_PYTHON, "--dest", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", "download", *options, *where, *requirements], check=True)


def _context(dockerfile: str, folder: Path) -> io.BytesIO:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.add(folder / "wheels", "wheels")
        text = dockerfile.encode()
        about = tarfile.TarInfo("Dockerfile")
        about.size = len(text)
        tar.addfile(about, io.BytesIO(text))
    archive.seek(0)
    return archive


def _build(context: io.BytesIO, reference: str) -> None:
    lines = []
    stream = engine().build(fileobj=context, custom_context=True, tag=reference, rm=True, forcerm=True, decode=True)
    for step in stream:
        lines.append(step.get("stream", ""))
        if "error" in step:
            pytest.fail(f"building {reference} failed: {step['error']}\n{''.join(lines)[-3000:]}")
