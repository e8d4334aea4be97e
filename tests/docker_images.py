"""Images for tests, built where they are missing and reused where they are there.

Nothing is pulled: the base comes from Debian's archive as the host's own configuration names it, packages come through
the host's pip as wheels in the build context, so no address or certificate of a site enters an image. A tag ends in a
digest of what the image was made from, so an engine that has it needs no second build.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import io
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import docker
import pytest
from docker.errors import DockerException, ImageNotFound

REPOSITORY = "dlenv-test"
BASE = f"{REPOSITORY}/base:1"
SUITE = "bookworm"
BASE_PACKAGES = "python3,python3-pip,python3-venv,ca-certificates"
BASE_PYTHON = "3.11"
NEWER = f"{REPOSITORY}/newer:1"
NEWER_SUITE = "trixie"
NEWER_PACKAGES = "python3,musl,busybox-static"
NEWER_PYTHON = "3.13"
FREEZE_CORE = "freeze-core==0.8.1"

MUSL = f"""FROM {NEWER} AS parts
COPY wheels /wheels
COPY musl_root.py /
RUN python3 /musl_root.py /wheels /made
FROM scratch
COPY --from=parts /made /
ENV PATH=/opt/python/bin:/bin
CMD ["sh"]
"""


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


@contextmanager
def missing(reference: str) -> Iterator[bool]:
    """Tell whether an image has to be made; whoever else wants to make it meanwhile waits, and need not."""
    lock = Path(
        tempfile.gettempdir(), f"dlenv-test-{os.getuid()}-{hashlib.sha256(reference.encode()).hexdigest()[:12]}"
    )
    with open(lock, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield not image_id(reference)


@functools.cache
def base_image() -> str:
    """Return the reference of a Debian with Python 3.11, pip and venv, and nothing else."""
    return debian(BASE, SUITE, BASE_PACKAGES)


@functools.cache
def newer_image() -> str:
    """Return the reference of a Debian with Python 3.13, and musl beside its own C library."""
    return debian(NEWER, NEWER_SUITE, NEWER_PACKAGES)


@functools.cache
def musl_image() -> str:
    """Return the reference of an image with Python 3.13 and no C library but musl."""
    newer_image()
    script = Path(__file__).with_name("musl_root.py")
    digest = hashlib.sha256(MUSL.encode() + FREEZE_CORE.encode() + script.read_bytes()).hexdigest()[:12]
    reference = f"{REPOSITORY}/musl:{digest}"
    with missing(reference) as wanted, tempfile.TemporaryDirectory() as folder:
        if wanted:
            shutil.copy(script, folder)
            tags = [f"musllinux_1_2_{platform.machine()}"]
            _download([FREEZE_CORE], Path(folder, "wheels"), python=NEWER_PYTHON, tags=tags, options=("--no-deps",))
            _build(_context(MUSL, Path(folder)), reference)
    return reference


def debian(reference: str, suite: str, packages: str) -> str:
    """Return the reference of a Debian with some packages, made by debootstrap when the engine lacks it."""
    with missing(reference) as wanted, tempfile.TemporaryDirectory() as folder:
        if wanted:
            _debootstrap(suite, packages, Path(folder, "root"), Path(folder, "root.tar"))
            changes = ["ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 'CMD ["sh"]']
            repository, _, tag = reference.partition(":")
            engine().import_image(str(Path(folder, "root.tar")), repository, tag, changes=changes)
    return reference


def _debootstrap(suite: str, packages: str, root: Path, tar: Path) -> None:
    program = shutil.which("debootstrap") or "/usr/sbin/debootstrap"
    if not Path(program).exists():
        pytest.skip("no debootstrap to make a base image with")
    subprocess.run([program, "--variant=minbase", f"--include={packages}", suite, str(root)], check=True)
    subprocess.run(["tar", "-C", str(root), "-cf", str(tar), "."], check=True)


@functools.cache
def image_from(dockerfile: str, name: str, *, wheels: tuple[str, ...] = (), tree: Path | None = None) -> str:
    """Return the reference of an image, built by the classic builder when the engine lacks it.

    Args:
        dockerfile: Its text.
        name: Last part of the repository's name.
        wheels: Requirements whose wheels, with all they need, lie in the build context's folder ``wheels``.
        tree: A folder of this host that lies in the build context as ``tree``.
    """
    for reference, make in ((BASE, base_image), (NEWER, newer_image)):
        if reference in dockerfile:
            make()
    digest = hashlib.sha256("\0".join([dockerfile, *wheels]).encode()).hexdigest()[:12]
    reference = f"{REPOSITORY}/{name}:{digest}"
    with missing(reference) as wanted, tempfile.TemporaryDirectory() as folder:
        if wanted:
            _download(wheels, Path(folder, "wheels"), python=BASE_PYTHON, tags=_glibc_tags())
            _build(_context(dockerfile, Path(folder), tree), reference)
    return reference


def _glibc_tags() -> list[str]:
    machine = platform.machine()
    tags = [f"manylinux_2_{minor}_{machine}" for minor in range(36, 4, -1)]
    return tags + [f"{alias}_{machine}" for alias in ("manylinux2014", "manylinux2010", "manylinux1")]


def _download(
    requirements: Sequence[str], folder: Path, *, python: str, tags: Sequence[str], options: Sequence[str] = ()
) -> None:
    folder.mkdir()
    if not requirements:
        return
    where = [part for tag in tags for part in ("--platform", tag)]
    argv = [sys.executable, "-m", "pip", "download", "--quiet", "--only-binary=:all:", "--python-version", python]
    subprocess.run([*argv, *options, "--dest", str(folder), *where, *requirements], check=True)


def _context(dockerfile: str, folder: Path, tree: Path | None = None) -> io.BytesIO:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for path in folder.iterdir():
            tar.add(path, path.name)
        if tree is not None:
            tar.add(tree, "tree", filter=_without_tests)
        text = dockerfile.encode()
        about = tarfile.TarInfo("Dockerfile")
        about.size = len(text)
        tar.addfile(about, io.BytesIO(text))
    archive.seek(0)
    return archive


def _without_tests(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Leave out what makes an installed Python large, and the packages of whoever uses it."""
    unwanted = {"test", "site-packages", "__pycache__", "idlelib", "share"} & set(Path(entry.name).parts)
    return None if unwanted or entry.name.endswith(".a") else entry


def _build(context: io.BytesIO, reference: str) -> None:
    lines = []
    stream = engine().build(fileobj=context, custom_context=True, tag=reference, rm=True, forcerm=True, decode=True)
    for step in stream:
        lines.append(step.get("stream", ""))
        if "error" in step:
            pytest.fail(f"building {reference} failed: {step['error']}\n{''.join(lines)[-3000:]}")
