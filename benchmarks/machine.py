"""What a reader must know of the machine to compare figures with other figures."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from typing import Any

from jupyter_dlenv.engines.docker.engine import DockerEngine

_PACKAGES = ("jupyter-dlenv", "ipykernel", "jupyter_client", "jupyter_server", "pyzmq", "tornado", "docker")
_QUIET_LOAD = 0.5


def describe(engine: DockerEngine) -> dict[str, Any]:
    """Return processor, memory, kernel, Docker, Python and packages."""
    info = engine.call(lambda client: client.info())
    command = subprocess.run(["docker", "--version"], capture_output=True, text=True, check=True)
    return {
        "cpu": _field("/proc/cpuinfo", "model name"),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(int(_field("/proc/meminfo", "MemTotal").split()[0]) / 2**20, 1),
        "kernel": platform.release(),
        "system": platform.freedesktop_os_release().get("PRETTY_NAME", ""),
        "docker": info["ServerVersion"],
        "docker_command": command.stdout.strip(),
        "docker_storage": info["Driver"],
        "cgroups": info.get("CgroupVersion", ""),
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
    }


def load() -> list[float]:
    """Return how many processes ran or waited to, on average over 1, 5 and 15 minutes."""
    return [round(value, 2) for value in os.getloadavg()]


def is_quiet(loads: list[float]) -> bool:
    """True when nothing else seems to use the machine."""
    return loads[0] < _QUIET_LOAD


def _field(path: str, name: str) -> str:
    with open(path, encoding="utf-8") as file:
        rows = (line.partition(":") for line in file)
        return next((value.strip() for key, _colon, value in rows if key.strip() == name), "0")
