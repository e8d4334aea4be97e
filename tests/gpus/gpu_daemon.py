"""A Docker daemon that has the NVIDIA Container Toolkit, as far as it can tell; and GPUs for it to hand out."""

from __future__ import annotations

import json
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker_images
from own_daemon import own_daemon

from jupyter_dlenv.engines.docker.engine import DockerEngine
from jupyter_dlenv.gpus.model import Gpu, Mig, Unit
from jupyter_dlenv.resources import GpuGrant
from jupyter_dlenv.spec import Identity, JobSpec, Role, new_id

HOOK_FOLDER = Path(__file__).with_name("hook")
NOBODY = 65534


def unit(index: int, *, mig: Mig | None = None) -> Unit:
    """Return the GPU of this index, or a MIG device on it."""
    uuid = f"GPU-0000000{index}-aaaa-bbbb-cccc-000000000000"
    gpu = Gpu(index=index, uuid=uuid, name="Stand-in", minor=index, mig_enabled=mig is not None)
    return Unit(mig.uuid, f"{index}:{mig.index}", gpu, mig) if mig else Unit(uuid, str(index), gpu)


def stand_in_device() -> tuple[int, int]:
    """Return a harmless device to stand for a GPU: one that containers may not open by themselves, if there is one."""
    fuse = Path("/dev/fuse")
    found = fuse.stat() if fuse.exists() else None
    if found is None or not stat.S_ISCHR(found.st_mode) or not Path("/sys/fs/cgroup/devices").is_dir():
        return 1, 7  # "full", which every container may open
    return os.major(found.st_rdev), os.minor(found.st_rdev)


class GpuDaemon:
    """A daemon with the stand-in of the toolkit's hook on its PATH.

    Attributes:
        engine: Talks to it.
    """

    def __init__(self, address: str, log: Path) -> None:
        self.address = address
        self.engine = DockerEngine(address)
        self._log = log

    def kill_all(self) -> None:
        """Kill every container that runs."""
        for found in self.engine.call(lambda client: client.containers()):
            self.engine.call(lambda client, name=found["Id"]: client.kill(name))

    def clear(self) -> None:
        """Remove every container."""
        for found in self.engine.call(lambda client: client.containers(all=True)):
            self.engine.call(lambda client, name=found["Id"]: client.remove_container(name, force=True))

    def handed_out(self, container: str) -> list[dict[str, Any]]:
        """Return what the hook noted for a container."""
        lines = self._log.read_text().splitlines() if self._log.exists() else []
        return [entry for entry in map(json.loads, lines) if entry["id"] == container]


@contextmanager
def gpu_daemon(**env: str) -> Iterator[GpuDaemon]:
    """Run one."""
    major, minor = stand_in_device()
    with tempfile.TemporaryDirectory(prefix="dlh-") as folder:
        log = Path(folder, "hook.log")
        path = f"{HOOK_FOLDER}:{os.environ['PATH']}"
        ours = {"PATH": path, "DLENV_HOOK_LOG": str(log), "DLENV_HOOK_NODE": f"{major}:{minor}", **env}
        with own_daemon(docker_images.base_image(), ours) as daemon:
            yield GpuDaemon(daemon.address, log)


def sleeper(engine: DockerEngine, gpus: GpuGrant, **changes: Any) -> JobSpec:
    """Return the spec of a container that holds GPUs and sleeps, with the image as this engine knows it."""
    image = engine.call(lambda client: client.inspect_image(docker_images.base_image()))
    values: dict[str, Any] = {
        "id": new_id(),
        "role": Role.KERNEL,
        "argv": ("/bin/sleep", "600"),
        "workdir": "/",
        "run_dir": "/none",
        "owner": "gpus",
        "image": image["Id"],
        "image_ref": docker_images.base_image(),
        "env": {"PATH": "/usr/local/bin:/usr/bin:/bin"},
        "network": "none",
        "identity": Identity(NOBODY, NOBODY),
        "gpus": gpus,
    }
    return JobSpec(**{**values, **changes})
