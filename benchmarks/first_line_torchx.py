"""From the command to the first line of the user's script on two ranks: ours, and torchx with its ``local_docker``."""

from __future__ import annotations

import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .first_line import SCRIPT, first_read
from .samples import Figure, Samples, in_turns
from .world import World

REPEAT = 3
GOAL = 1
PEER = "torchx==0.7.0"
_LABEL = "torchx.pytorch.org/version"
_NETWORK = "torchx"


def measure(world: World, repeat: int | None) -> list[Figure]:
    """Return the ratio of two commands, nothing where the peer cannot be had."""
    ours = world.dlenv_run(SCRIPT, "--nproc", "2")
    try:
        with peer() as program:
            theirs = _command(world, program)
            first_read(ours, world.folder), first_read(theirs, world.folder)
            mine, reference = in_turns(
                lambda: first_read(ours, world.folder), lambda: first_read(theirs, world.folder), repeat or REPEAT
            )
    except subprocess.CalledProcessError as error:
        print(f"{PEER} cannot be had here: {shlex.join(error.cmd[:6])} ended with {error.returncode}")
        return []
    return [
        Figure(
            "first-line-torchx",
            "Command to the first line of the user's script, 2 ranks, beside torchx local_docker",
            "s",
            Samples("jupyter dlenv run", mine),
            GOAL,
            Samples("torchx run", reference),
            notes={"peer": PEER, "its command": theirs[1:], "warm_up": 1},
        )
    ]


def _command(world: World, program: Path) -> list[str]:
    """Return the peer's command; an image that is named by its id is not pulled, and no workspace is built into it."""
    image = str(world.engine.call(lambda client: client.inspect_image(world.image))["Id"])
    run = [str(program), "run", "--scheduler", "local_docker", "--workspace", "", "--wait", "--log"]
    place = f"type=bind,src={world.folder},dst={world.folder}"
    return [*run, "dist.ddp", "--image", image, "-j", "1x2", "--mounts", place, "--script", str(world.folder / SCRIPT)]


@contextmanager
def peer() -> Iterator[Path]:
    """Install the peer into a venv of its own and yield its program; take away what it leaves in Docker, too.

    Raises:
        CalledProcessError: It could not be installed.
    """
    known = _docker("network", "ls", "--quiet", "--filter", f"name=^{_NETWORK}$")
    with tempfile.TemporaryDirectory(prefix="dlpeer-") as base:
        subprocess.run([sys.executable, "-m", "venv", base], check=True, capture_output=True)
        install = [f"{base}/bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*install, PEER, "docker"], check=True, capture_output=True)
        before = _containers()
        try:
            yield Path(base, "bin", "torchx")
        finally:
            for container in set(_containers()) - set(before):
                _docker("rm", "--force", container)
            if not known:
                _docker("network", "rm", _NETWORK)


def _containers() -> list[str]:
    return _docker("ps", "--all", "--quiet", "--no-trunc", "--filter", f"label={_LABEL}")


def _docker(*words: str) -> list[str]:
    return subprocess.run(["docker", *words], capture_output=True, text=True, check=False).stdout.split()
