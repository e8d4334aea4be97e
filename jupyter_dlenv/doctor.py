"""What this host has and lacks, each finding with the command that helps."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from .engines.docker.engine import DockerEngine
from .engines.registry import load_engine
from .errors import DLEnvError
from .gpus.inventory import read_inventory
from .i18n import _
from .paths import data_dir, kernels_dir
from .spec import format_size

_LOW_DISK_BYTES = 10 << 30


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        level: ``ok``, ``note`` or ``problem``.
        remedy: The command that helps, empty when nothing is needed.
    """

    subject: str
    level: str
    message: str
    remedy: str = ""


def examine() -> list[Finding]:
    """Return every finding, by looking and never by changing anything."""
    return [_docker(), *_gpus(), _disk(), _sockets()]


def _docker() -> Finding:
    engine = load_engine("docker")
    assert isinstance(engine, DockerEngine)
    try:
        version = engine.call(lambda client: client.version())
        modes = ", ".join(engine.security_options) or _("default")
    except DLEnvError as error:
        return Finding("docker", "problem", error.message, error.hint)
    text = _("Docker {version} answers (API {api}; modes: {modes}).")
    return Finding("docker", "ok", text.format(version=version["Version"], api=version["ApiVersion"], modes=modes))


def _gpus() -> list[Finding]:
    inventory = read_inventory()
    if not inventory.gpus:
        text = _("No GPU: {message}. Kernels and jobs run on the CPU.").format(
            message=inventory.message or _("no device")
        )
        return [Finding("gpus", "note", text)]
    names = ", ".join(gpu.name for gpu in inventory.gpus)
    found = Finding("gpus", "ok", _("{names}; driver {driver}").format(names=names, driver=inventory.driver))
    return [found, _toolkit()]


def _toolkit() -> Finding:
    if shutil.which("nvidia-container-runtime-hook") or shutil.which("nvidia-container-cli"):
        return Finding("toolkit", "ok", _("The NVIDIA Container Toolkit is installed."))
    return Finding(
        "toolkit",
        "problem",
        _("The NVIDIA Container Toolkit is missing, so containers see no GPU."),
        "sudo apt-get install nvidia-container-toolkit && sudo nvidia-ctk runtime configure --runtime=docker",
    )


def _disk() -> Finding:
    folder = next(path for path in (data_dir(), *data_dir().parents) if path.exists())
    free = shutil.disk_usage(folder).free
    text = _("{free} free at {folder}").format(free=format_size(free), folder=folder)
    if free < _LOW_DISK_BYTES:
        return Finding("disk", "problem", text, "docker image prune")
    return Finding("disk", "ok", text)


def _sockets() -> Finding:
    longest = len(str(Path(kernels_dir()) / ("0" * 32) / "api.sock"))
    if longest > 107:
        return Finding(
            "sockets", "problem", _("The path of kernels' sockets is too long."), "export XDG_RUNTIME_DIR=/tmp"
        )
    return Finding("sockets", "ok", _("Kernels' sockets lie in {folder}.").format(folder=kernels_dir()))
