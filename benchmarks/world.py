"""Where the benchmarks run: Jupyter folders and a notebook folder of their own, and the starter image."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from jupyter_dlenv.engines.docker.engine import DockerEngine
from jupyter_dlenv.engines.docker.images import DockerImages
from jupyter_dlenv.images.bootstrap import starter
from jupyter_dlenv.kernels.environments import Environment, EnvironmentManager

ENVIRONMENT = "bench"
_PROGRAMS = Path(__file__).parent / "programs"
_FOREIGN = ("DLENV_API", "JPY_PARENT_PID", "LANGUAGE", "LC_ALL", "LANG")


@dataclass(frozen=True)
class World:
    """What every figure needs.

    Attributes:
        folder: The notebook folder; the programs to run lie in it.
        image: The image's reference; the environment ``bench`` is made of it.
    """

    folder: Path
    image: str
    engine: DockerEngine

    def about_image(self) -> dict[str, str]:
        """Return what the image is and which Python it runs."""
        info = self.engine.call(lambda client: client.inspect_image(self.image))
        argv = self.docker_run("python3", "--version")
        version = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()
        return {"reference": self.image, "id": info["Id"], "python": version}

    def docker_run(self, *argv: str, env: tuple[str, ...] = ()) -> list[str]:
        """Return how a person runs a command by hand in the image, with the notebook folder at its own path."""
        variables = [word for item in env for word in ("--env", item)]
        place = ["--volume", f"{self.folder}:{self.folder}", "--workdir", str(self.folder)]
        return ["docker", "run", "--rm", *variables, *place, self.image, *argv]

    def dlenv_run(self, script: str, *words: str) -> list[str]:
        """Return how a person runs a script of the notebook folder in the image by our command."""
        return [sys.executable, "-m", "jupyter_dlenv", "run", script, "--image", self.image, *words]


@contextmanager
def own_world(image: str | None) -> Iterator[World]:
    """Make a world and take it away again; nothing of the user's Jupyter is read or written.

    Args:
        image: Reference of an image with torch; the starter image unless given.

    Raises:
        DLEnvError: Docker does not answer, or the image is not there.
    """
    base = Path(tempfile.mkdtemp(prefix="dlbench-"))
    saved = dict(os.environ)
    try:
        _enter(base)
        engine = DockerEngine()
        reference = image or starter(DockerImages.connect(), progress=print)
        asyncio.run(engine.image(reference))  # one that is not here is an error with its remedy
        EnvironmentManager().put(Environment(ENVIRONMENT, image=reference))
        yield World(base / "notebooks", reference, engine)
    finally:
        os.environ.clear()
        os.environ.update(saved)
        shutil.rmtree(base, ignore_errors=True)


def _enter(base: Path) -> None:
    for name in ("data", "config", "runtime"):
        (base / name).mkdir(mode=0o700)
        os.environ[f"JUPYTER_{name.upper()}_DIR"] = str(base / name)
    os.environ["IPYTHONDIR"] = str(base / "ipython")
    os.environ["XDG_RUNTIME_DIR"] = str(base / "runtime")  # kernels' folders lie below it
    for name in _FOREIGN:
        os.environ.pop(name, None)
    shutil.copytree(_PROGRAMS, base / "notebooks", ignore=shutil.ignore_patterns("__pycache__"))
