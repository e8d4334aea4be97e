"""A container kernel beside dockernel, which starts kernels in containers of images that hold ipykernel."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jupyter_client.kernelspec import KernelSpecManager

from .kernels import Kernel, event_loop
from .samples import Figure, Samples, in_turns
from .world import ENVIRONMENT, World

REPEAT = 5
GOAL = 1
_PEER = "dockernel"
_NAME = "bench-peer"
_IMAGE = "dlenv-bench/dockernel"
_SITE = "/opt/kernel"
_DOCKERFILE = """FROM {image}
COPY site {site}
ENV PYTHONPATH={site}
ENTRYPOINT []
CMD ["/bin/sh", "-c", "exec python3 -m ipykernel_launcher -f $DOCKERNEL_CONNECTION_FILE"]
"""


def measure(world: World, repeat: int | None) -> list[Figure]:
    """Return the ratio, nothing where the peer cannot be had."""
    try:
        with peer(world), event_loop() as loop:

            def started(name: str) -> float:
                with Kernel(name, world.folder, loop) as kernel:
                    seconds = kernel.start_s
                    kernel.client.ask("shutdown_request", {"restart": False})  # else the peer's container stays
                return seconds

            started(ENVIRONMENT), started(_NAME)
            ours, theirs = in_turns(lambda: started(ENVIRONMENT), lambda: started(_NAME), repeat or REPEAT)
    except subprocess.CalledProcessError as error:
        print(f"{_PEER} cannot be had here: {shlex.join(error.cmd[:6])} ended with {error.returncode}")
        return []
    return [
        Figure(
            "peer-start",
            f"Kernel start to first kernel_info reply, beside {_PEER}",
            "s",
            Samples("container kernel", ours),
            GOAL,
            Samples(_PEER, theirs),
            notes={"warm_up": 1, "peer": _PEER, "its image": "ours and ipykernel"},
        )
    ]


@contextmanager
def peer(world: World) -> Iterator[None]:
    """Install the peer, an image for it and its kernelspec; take the image away again.

    Raises:
        CalledProcessError: pip or Docker could not.
    """
    with tempfile.TemporaryDirectory(prefix="dlpeer-") as base:
        site, context = Path(base, "peer"), Path(base, "context")
        _install(site, "--no-deps", _PEER)
        minor = ".".join(world.about_image()["python"].split()[1].split(".")[:2])
        _install(context / "site", "--only-binary", ":all:", "--python-version", minor, "ipykernel")
        (context / "Dockerfile").write_text(_DOCKERFILE.format(image=world.image, site=_SITE))
        build = ["docker", "build", "--quiet", "--tag", _IMAGE, str(context)]
        subprocess.run(build, check=True, capture_output=True, env={**os.environ, "DOCKER_BUILDKIT": "0"})
        try:
            _write_kernelspec(Path(base, "spec"), site)
            yield
        finally:
            _remove()


def _install(folder: Path, *what: str) -> None:
    argv = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*argv, "--target", str(folder), *what], check=True, capture_output=True)


def _write_kernelspec(folder: Path, site: Path) -> None:
    """Write what the peer's own install command writes, with our interpreter."""
    folder.mkdir()
    argv = [sys.executable, "-m", _PEER, "start", _IMAGE, "{connection_file}"]
    spec = {"argv": argv, "display_name": _PEER, "language": "python", "env": {"PYTHONPATH": str(site)}}
    (folder / "kernel.json").write_text(json.dumps(spec))
    KernelSpecManager().install_kernel_spec(str(folder), _NAME, user=True)


def _remove() -> None:
    """Remove the image and what still runs of it."""
    listed = ["docker", "ps", "--all", "--quiet", "--filter", f"ancestor={_IMAGE}"]
    for container in subprocess.run(listed, capture_output=True, text=True).stdout.split():
        subprocess.run(["docker", "rm", "--force", container], capture_output=True)
    subprocess.run(["docker", "image", "rm", "--force", _IMAGE], capture_output=True)
