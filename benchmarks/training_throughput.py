"""The quickstart's training on two ranks in a container, and the same on the host with the same packages."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from .samples import Figure, Samples, in_turns
from .world import World

REPEAT = 7
LEAST_SHARE = 0.99
EPOCHS = 25
_EXAMPLE = Path(__file__).parents[1] / "examples" / "train_digits.py"
_SCRIPT = "throughput.py"
_RANKS = ("--nproc-per-node", "2")
_LINE = re.compile(r"learned (\d+) digits in (\d+\.\d+) s")
_ABOUT = (
    "import json, os, sys, torch; print(json.dumps([os.path.dirname(os.path.dirname(torch.__file__)), sys.version]))"
)


def measure(world: World, repeat: int | None) -> list[Figure]:
    """Return the time over the host's, which is the throughput's reciprocal; nothing where no Python fits."""
    shutil.copy(_EXAMPLE, world.folder)
    about = subprocess.run(world.docker_run("python3", "-c", _ABOUT), capture_output=True, text=True, check=True)
    packages, version = json.loads(about.stdout)
    python = host_python(version)
    if python is None:
        print(f"This host has no Python {version.split()[0]} as the image has; training-throughput is left out.")
        return []
    # In the container the ranks write into files and the lines come by the log, with two threads of ours beside them.
    ours = world.dlenv_run(_SCRIPT, "--nproc", "2", "--launcher", "torchrun", "--", str(EPOCHS))
    theirs = [python, "-m", "torch.distributed.run", "--standalone", *_RANKS, _SCRIPT, str(EPOCHS)]
    with tempfile.TemporaryDirectory(prefix="dlhost-") as base:
        site = copy_packages(world, packages, Path(base))
        env = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        trained(ours, world.folder), trained(theirs, world.folder, env)
        mine, reference = in_turns(
            lambda: trained(ours, world.folder), lambda: trained(theirs, world.folder, env), repeat or REPEAT
        )
    return [
        Figure(
            "training-throughput",
            "Time of the quickstart's training, 2 ranks on the CPU, in the container",
            "ms a thousand digits",
            Samples("jupyter dlenv run", mine),
            1 / LEAST_SHARE,
            Samples("torchrun on the host", reference),
            notes={"on the host": [python, version, "the image's own packages, copied"], "threads of a rank": 1},
        )
    ]


def trained(argv: list[str], cwd: Path, env: Mapping[str, str] | None = None) -> float:
    """Return the milliseconds that a thousand digits took, start and end of the processes not counted.

    Raises:
        RuntimeError: The training failed.
    """
    done = subprocess.run(argv, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    found = _LINE.search(done.stdout)
    if done.returncode or found is None:
        raise RuntimeError(f"{argv} ended with {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return float(found.group(2)) / int(found.group(1)) * 1e6


def host_python(version: str) -> str | None:
    """Return an interpreter of this host that is built like the image's, else one of the same minor version, if any."""
    minor = version.split()[0].rpartition(".")[0]
    known = [sys.executable, *filter(None, map(shutil.which, ("/usr/bin/python3", f"python{minor}", "python3")))]
    versions = {path: _version_of(path) for path in dict.fromkeys(known)}
    alike = [path for path, found in versions.items() if found == version]
    near = [path for path, found in versions.items() if found.startswith(f"{minor}.")]
    return next(iter([*alike, *near]), None)


def _version_of(python: str) -> str:
    asked = [python, "-c", "import sys; print(sys.version)"]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()


def copy_packages(world: World, packages: str, folder: Path) -> Path:
    """Copy the image's packages to the host, so that both sides run the same code, and return the folder."""
    made = str(world.engine.call(lambda client: client.create_container(world.image, ["true"]))["Id"])
    try:
        subprocess.run(["docker", "cp", f"{made}:{packages}", str(folder / "site")], check=True, capture_output=True)
    finally:
        world.engine.call(lambda client: client.remove_container(made, v=True, force=True))
    return folder / "site"
