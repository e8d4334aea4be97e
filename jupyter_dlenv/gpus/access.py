"""How a container gets its GPUs: what this host can do, which way is taken, and what a container is given then."""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ..engines.docker.daemon import DaemonInfo
from ..engines.docker.engine import DockerEngine
from ..engines.docker.failures import CDI_REMEDY, TOOLKIT_REMEDY, or_the_cpu
from ..errors import NoGpu
from ..i18n import _
from ..resources import GpuAccess, GpuGrant
from .driver_files import (
    LIBRARY_DIR,
    PROGRAM_DIR,
    UVM_REMEDY,
    DriverFiles,
    device_nodes,
    find_driver_files,
    library_mounts,
)
from .model import Unit

HOOK = "nvidia-container-runtime-hook"

_KIND = "nvidia.com/gpu"
_STANDARD_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PID_FILES = ("run/docker.pid", "var/run/docker.pid")
_DRIVER_REMEDY = "sudo apt-get install nvidia-driver"
_CREDENTIALS = struct.Struct("3i")
_YamlLoader: type[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class AccessFacts:
    """What decides how containers get GPUs.

    Attributes:
        local: Whether the daemon runs on this host.
        hook: Whether the daemon finds the toolkit's hook; None where that cannot be known.
        cdi_devices: Qualified names of the NVIDIA devices that CDI offers.
    """

    daemon: DaemonInfo = field(default_factory=DaemonInfo)
    local: bool = True
    hook: bool | None = None
    cdi_devices: frozenset[str] = frozenset()
    driver: DriverFiles = field(default_factory=DriverFiles)


# What is there --------------------------------------------------------------------------------------------------------


def gather(engine: DockerEngine, host_root: Path = Path("/")) -> AccessFacts:
    """Return what is known of this host and the engine's daemon.

    Raises:
        EngineUnavailable: The daemon does not answer.
    """
    daemon = engine.info()
    local = _socket_path(daemon.address) != ""
    return AccessFacts(
        daemon=daemon,
        local=local,
        hook=_finds_hook(daemon, host_root) if local else None,
        cdi_devices=_cdi_devices(daemon, host_root),
        driver=find_driver_files(host_root),
    )


def _socket_path(address: str) -> str:
    scheme, _colon, path = address.partition("://")
    return path if scheme in ("unix", "http+unix") else ""


def _finds_hook(daemon: DaemonInfo, host_root: Path) -> bool:
    """Docker knows the driver ``nvidia`` only if the hook was on its PATH when it started."""
    path = daemon_path(daemon.address, host_root) or _STANDARD_PATH
    folders = [host_root / folder.lstrip("/") for folder in path.split(":") if folder]
    return any(os.access(folder / HOOK, os.X_OK) for folder in folders)


def daemon_path(address: str, host_root: Path = Path("/")) -> str:
    """Return the PATH of the daemon behind a socket, empty where this process may not know it."""
    for pid in (_listener(_socket_path(address)), *_noted_pids(host_root)):
        process = host_root / "proc" / str(pid)
        try:
            if (process / "comm").read_text(encoding="utf-8", errors="replace").strip() != "dockerd":
                continue  # systemd, which listens for a daemon that it starts when it is needed
            entries = (process / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        return next((os.fsdecode(entry[5:]) for entry in entries if entry.startswith(b"PATH=")), "")
    return ""


def _listener(path: str) -> int:
    """Return the process that listens on a socket, 0 when it is not known."""
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(path)
            found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        except OSError:
            return 0
    return int(_CREDENTIALS.unpack(found)[0])


def _noted_pids(host_root: Path) -> Iterator[int]:
    for name in _PID_FILES:
        try:
            yield int((host_root / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue


def _cdi_devices(daemon: DaemonInfo, host_root: Path) -> frozenset[str]:
    if daemon.cdi_devices is not None:
        return frozenset(name for name in daemon.cdi_devices if name.startswith(f"{_KIND}="))
    folders = (host_root / folder.lstrip("/") for folder in daemon.cdi_dirs)
    return frozenset(name for folder in folders for path in _spec_files(folder) for name in spec_devices(path))


def _spec_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.suffix in (".json", ".yaml", ".yml"))


def spec_devices(path: Path) -> list[str]:
    """Return the qualified names of the NVIDIA GPUs in a CDI specification; a file that is none offers none."""
    try:
        text = path.read_text(encoding="utf-8")
        spec = json.loads(text) if path.suffix == ".json" else yaml.load(text, _YamlLoader)
    except (OSError, ValueError, yaml.YAMLError):
        return []
    if not isinstance(spec, dict) or spec.get("kind") != _KIND or not isinstance(spec.get("devices"), list):
        return []
    return [f"{_KIND}={each['name']}" for each in spec["devices"] if isinstance(each, dict) and "name" in each]


# Which way ------------------------------------------------------------------------------------------------------------


def choose_access(setting: str, facts: AccessFacts) -> GpuAccess:
    """Return the way that containers get GPUs.

    Args:
        setting: ``toolkit``, ``cdi`` or ``devices``; ``auto`` for the first that this host can do.

    Raises:
        NoGpu: It cannot be; says what is missing and the command that helps.
    """
    if setting != "auto":
        access = GpuAccess(setting)
        problem = _CHECKS[access](facts)
        if problem is not None:
            raise problem
        return access
    for access, check in _CHECKS.items():
        if check(facts) is None:
            return access
    if not facts.driver.has_cuda:
        raise _no_driver(facts)
    raise NoGpu(
        _("Docker cannot hand out GPUs: the NVIDIA Container Toolkit is not set up on this host."),
        hint=or_the_cpu(TOOLKIT_REMEDY),
    )


def _no_cdi(facts: AccessFacts) -> NoGpu | None:
    if not facts.daemon.cdi_dirs:
        found = facts.daemon.version or _("unknown")
        message = _("GPUs by CDI need Docker Engine 25 or newer with CDI switched on; this is {version} without it.")
        return NoGpu(message.format(version=found), hint=or_the_cpu(CDI_REMEDY))
    if not facts.cdi_devices:
        message = _("No CDI specification in {folders} lists an NVIDIA GPU.")
        return NoGpu(message.format(folders=", ".join(facts.daemon.cdi_dirs)), hint=or_the_cpu(CDI_REMEDY))
    return None


def _no_toolkit(facts: AccessFacts) -> NoGpu | None:
    if "nvidia" in facts.daemon.runtimes or facts.hook is not False:
        return None
    message = _("Docker finds no {hook}: the NVIDIA Container Toolkit is not set up on this host.")
    return NoGpu(message.format(hook=HOOK), hint=or_the_cpu(TOOLKIT_REMEDY))


def _no_devices(facts: AccessFacts) -> NoGpu | None:
    if not facts.local:
        message = _("Plain device nodes need a Docker daemon on this host; {address} is another.")
        return NoGpu(message.format(address=facts.daemon.address), hint=or_the_cpu("c.DLEnv.gpu_access = 'toolkit'"))
    if "/dev/nvidiactl" not in facts.driver.nodes or not facts.driver.has_cuda:
        return _no_driver(facts)
    if "/dev/nvidia-uvm" not in facts.driver.nodes:
        message = _("The device node {path} is not on this host.").format(path="/dev/nvidia-uvm")
        return NoGpu(message, hint=or_the_cpu(UVM_REMEDY))
    return None


def _no_driver(facts: AccessFacts) -> NoGpu:
    nodes = [] if "/dev/nvidiactl" in facts.driver.nodes else ["/dev/nvidiactl"]
    missing = [*nodes, *([] if facts.driver.has_cuda else ["libcuda.so.1"])]
    message = _("The NVIDIA driver is not on this host: {missing} is missing.")
    return NoGpu(message.format(missing=", ".join(missing)), hint=or_the_cpu(_DRIVER_REMEDY))


_CHECKS: dict[GpuAccess, Callable[[AccessFacts], NoGpu | None]] = {
    GpuAccess.CDI: _no_cdi,
    GpuAccess.TOOLKIT: _no_toolkit,
    GpuAccess.DEVICES: _no_devices,
}
"""In the order in which they are preferred: CDI outlives a reload of systemd, and both name the devices."""


# What a container is given --------------------------------------------------------------------------------------------


def grant(units: Sequence[Unit], access: GpuAccess, facts: AccessFacts, *, shared: bool = False) -> GpuGrant:
    """Return what a container needs to reach these GPUs and no others.

    Raises:
        NoGpu: One of them cannot be reached this way.
    """
    if not units:
        return GpuGrant(access=access, shared=shared)
    uuids = tuple(unit.uuid for unit in units)
    # Where the toolkit's runtime is the daemon's default, it reads these in each of the three cases.
    env = {"NVIDIA_DRIVER_CAPABILITIES": "compute,utility"}
    if access is GpuAccess.CDI:
        names = tuple(_cdi_name(unit, facts.cdi_devices) for unit in units)
        return GpuGrant(uuids, access, devices=names, env=env, shared=shared)
    if access is GpuAccess.TOOLKIT:
        return GpuGrant(uuids, access, devices=uuids, env=env, shared=shared)
    return GpuGrant(
        uuids,
        access,
        nodes=device_nodes(units, facts.driver),
        libraries=library_mounts(facts.driver),
        env={**env, "LD_LIBRARY_PATH": LIBRARY_DIR, **_programs(facts.driver), **_mig_env(units)},
        shared=shared,
    )


def _programs(driver: DriverFiles) -> dict[str, str]:
    return {"PATH": PROGRAM_DIR} if driver.nvidia_smi else {}


def _mig_env(units: Iterable[Unit]) -> dict[str, str]:
    """CUDA finds whole GPUs by their nodes; MIG devices share a node and are named."""
    named = [unit.uuid for unit in units]
    return {"CUDA_VISIBLE_DEVICES": ",".join(named)} if any(unit.mig for unit in units) else {}


def _cdi_name(unit: Unit, offered: frozenset[str]) -> str:
    """Return the name by UUID where the specification has it: indices change when a GPU is added or lost."""
    kind = "mig" if unit.mig else "gpu"
    for name in (unit.uuid, unit.name, f"{kind}{unit.name}"):
        if f"{_KIND}={name}" in offered:
            return f"{_KIND}={name}"
    message = _("No CDI specification lists the GPU {uuid} ({name}): it is older than the GPU.")
    raise NoGpu(message.format(uuid=unit.uuid, name=unit.name), hint=or_the_cpu(CDI_REMEDY))
