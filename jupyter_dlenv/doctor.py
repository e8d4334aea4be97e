"""What this host has and lacks, each finding with the command that helps."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from packaging.version import Version

from .engines.docker.daemon import DaemonInfo
from .engines.docker.engine import DockerEngine
from .engines.docker.failures import CDI_REMEDY
from .engines.registry import load_engine
from .errors import DLEnvError, NoGpu
from .gpus.access import AccessFacts, choose_access, gather
from .gpus.sampler import read_inventory
from .i18n import _
from .paths import data_dir, kernels_dir
from .resources import GpuAccess, format_size
from .settings import load_settings

_LOW_DISK_BYTES = 10 << 30
_SAFE_TOOLKIT = Version("1.19.1")  # CVE-2026-24260 and what was before it
_TIMEOUT_S = 10


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
    return [found, *_gpu_access()]


def _gpu_access() -> list[Finding]:
    engine = load_engine("docker")
    assert isinstance(engine, DockerEngine)
    setting = load_settings().gpu_access
    try:
        facts = gather(engine)
        access = choose_access(setting, facts)
    except NoGpu as error:
        command, _newline, offer = error.hint.partition("\n")
        return [Finding("gpu access", "problem", f"{error.message} {offer}".strip(), command)]
    except DLEnvError:
        return []  # said before: Docker does not answer
    return [access_finding(setting, access, facts), *toolkit_findings(access, facts.daemon, _toolkit_version())]


def access_finding(setting: str, access: GpuAccess, facts: AccessFacts) -> Finding:
    """Return which way containers get GPUs, and why this one."""
    ways = {
        GpuAccess.CDI: _("by CDI: Docker's specification lists {devices}").format(
            devices=", ".join(sorted(facts.cdi_devices))
        ),
        GpuAccess.TOOLKIT: _("by the NVIDIA Container Toolkit, which Docker finds")
        if facts.hook or "nvidia" in facts.daemon.runtimes
        else _("by the NVIDIA Container Toolkit; whether Docker finds it shows when a container starts"),
        GpuAccess.DEVICES: _("by plain device nodes and {count} libraries of the driver").format(
            count=len(facts.driver.libraries)
        ),
    }
    chosen = _("the first that works here") if setting == "auto" else f"c.DLEnv.gpu_access = {setting!r}"
    text = _("Containers get GPUs {way} ({chosen}).").format(way=ways[access], chosen=chosen)
    return Finding("gpu access", "ok", text)


def toolkit_findings(access: GpuAccess, daemon: DaemonInfo, version: str) -> list[Finding]:
    """Return what is wrong with the toolkit, if containers get GPUs through it.

    Args:
        version: As the toolkit tells it, empty when it does not.
    """
    found = []
    if access is not GpuAccess.DEVICES and version and Version(version) < _SAFE_TOOLKIT:
        text = _("The NVIDIA Container Toolkit {version} lets images break out of containers; {safe} does not.")
        remedy = "sudo apt-get install --only-upgrade nvidia-container-toolkit"
        found.append(Finding("toolkit", "problem", text.format(version=version, safe=_SAFE_TOOLKIT), remedy))
    if access is GpuAccess.TOOLKIT and daemon.cgroup_driver == "systemd":
        text = _("'systemctl daemon-reload' takes the GPUs from running containers; with CDI it does not.")
        found.append(Finding("toolkit", "note", text, CDI_REMEDY))
    return found


def _toolkit_version() -> str:
    program = shutil.which("nvidia-ctk")
    if program is None:
        return ""
    try:
        done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    found = re.search(r"version (\d+(?:\.\d+)+)", done.stdout)
    return found.group(1) if found else ""


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
