"""What a Docker daemon says of itself. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

DEFAULT_ADDRESS = "unix:///var/run/docker.sock"


@dataclass(frozen=True)
class DaemonInfo:
    """A daemon, as far as it matters for what it can give to a container.

    Attributes:
        address: Where it was reached.
        runtimes: Names of the runtimes that are registered.
        cdi_dirs: Folders of CDI specifications; empty where it has no CDI, or CDI is switched off.
        cdi_devices: Qualified names of CDI devices that it found; None where it does not tell (Engine before 28.2).
        cgroup_driver: ``systemd`` or ``cgroupfs``.
        cgroup_version: ``1`` or ``2``, empty when unknown.
        security_options: Its modes, such as ``rootless`` and ``userns``.
    """

    version: str = ""
    address: str = ""
    runtimes: tuple[str, ...] = ()
    default_runtime: str = ""
    cdi_dirs: tuple[str, ...] = ()
    cdi_devices: tuple[str, ...] | None = None
    cgroup_driver: str = ""
    cgroup_version: str = ""
    security_options: tuple[str, ...] = ()


def daemon_info(info: Mapping[str, Any], address: str) -> DaemonInfo:
    """Return what ``GET /info`` says.

    Args:
        address: Where it was asked, empty for the usual socket.
    """
    discovered = info.get("DiscoveredDevices")
    return DaemonInfo(
        version=str(info.get("ServerVersion") or ""),
        address=address or DEFAULT_ADDRESS,
        runtimes=tuple(sorted(info.get("Runtimes") or {})),
        default_runtime=str(info.get("DefaultRuntime") or ""),
        cdi_dirs=tuple(info.get("CDISpecDirs") or ()),
        cdi_devices=None if discovered is None else tuple(str(each.get("ID")) for each in discovered),
        cgroup_driver=str(info.get("CgroupDriver") or ""),
        cgroup_version=str(info.get("CgroupVersion") or ""),
        security_options=tuple(
            option.split(",")[0].partition("name=")[2] for option in info.get("SecurityOptions") or []
        ),
    )
