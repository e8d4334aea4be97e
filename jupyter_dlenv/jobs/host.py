"""Which host this is, and which of its starts: where hosts share a home, each looks after the jobs of its own alone."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Mapping
from functools import cache
from pathlib import Path

_MACHINE_ID = Path("/etc/machine-id")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@cache
def this_host() -> Mapping[str, str]:
    """Return what a job's record notes of this host: its ``name``, its start as ``boot``, and ``machine``.

    Clones and containers have the same machine id, and foreign hosts the same name: ``machine`` stands for both. It is
    a digest, because the id itself is not for others.
    """
    name = socket.gethostname()
    known = f"jupyter-dlenv {_text(_MACHINE_ID)} {name}"
    return {"name": name, "machine": hashlib.sha256(known.encode()).hexdigest()[:16], "boot": boot_id()}


def is_here(host: Mapping[str, str], *, plain: bool) -> bool:
    """Return whether a job of a host can be looked after from here.

    A daemon is reached by its host under a new name and from its containers too, a process by the one host alone.

    Args:
        host: What :func:`this_host` returned when the job was submitted.
        plain: Whether the job is a plain process.
    """
    mine = this_host()
    same_start = bool(mine["boot"]) and host.get("boot") == mine["boot"]
    return is_this_machine(host) or (same_start and not plain)


def is_this_machine(host: Mapping[str, str]) -> bool:
    """Return whether processes of a host can be seen from here; one of which nothing is noted is this one."""
    mine = this_host()["machine"]
    return host.get("machine", mine) == mine


def boot_id() -> str:
    """Return what tells one start of the host from the next, empty where it is not told."""
    return _text(_BOOT_ID)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
