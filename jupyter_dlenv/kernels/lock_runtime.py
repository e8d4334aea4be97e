"""Rewrite the locks of the kernel runtime: ``python -m jupyter_dlenv.kernels.lock_runtime [3.11-glibc ...]``.

For maintainers, on any host with `uv` on the PATH and Python 3.10 or newer. uv resolves, because pip evaluates
environment markers for the Python that runs it instead of the one asked for; pip then says which file each pin is for
each machine, by the same :func:`jupyter_dlenv.kernels.wheels.selection`, and those files' hashes are
what the lock holds.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from packaging.version import Version

from .wheels import MACHINES, Target, selection

ROOTS = ("ipykernel", "ipywidgets")

PLAIN_ROOTS = ("ipykernel",)
"""For Python 3.6, whose newest ipywidgets wants a whole notebook server and speaks to no JupyterLab of today."""

CONSTRAINTS = ("importlib-metadata<5",)
"""importlib-metadata 5 took away what plugins of older images call; the kernel stack needs 4.8 only."""

FRONT_END = ("jupyterlab-widgets", "widgetsnbextension")
"""Required by ipywidgets for the browser's side, which the server's own installation serves."""

UNWANTED = (*FRONT_END, "setuptools")
"""What no kernel imports; IPython 7 asks for setuptools, which is better the image's alone."""

NAMES = ("3.6-glibc", *(f"3.{minor}-{libc}" for minor in range(7, 15) for libc in ("glibc", "musl")))
"""The locks that there are. With musl and Python 3.6 no ipykernel of use has wheels."""

Pins = dict[str, str]


def roots(minor: int) -> tuple[str, ...]:
    """Return the distributions that a lock is made for."""
    return ROOTS if minor > 6 else PLAIN_ROOTS


def libc_floor(minor: int, libc: str) -> tuple[int, int]:
    """Return the oldest C library to support: CentOS 7's where wheels exist, Debian 10's from Python 3.14 on."""
    if libc == "musl":
        return (1, 2)
    return (2, 17) if minor < 14 else (2, 28)


def uv_platform(target: Target, libc_version: tuple[int, int]) -> str:
    """Return uv's name for the system."""
    if target.libc == "musl":
        return f"{target.machine}-unknown-linux-musl"
    return f"{target.machine}-manylinux_{libc_version[0]}_{libc_version[1]}"


def resolve(target: Target, libc_version: tuple[int, int], constraints: Sequence[str]) -> Pins:
    """Return the newest versions that have wheels for the target."""
    with tempfile.TemporaryDirectory() as folder:
        limits = Path(folder, "constraints.txt")
        limits.write_text("\n".join(constraints), encoding="utf-8")
        options = ["--quiet", "--no-annotate", "--no-header", "--only-binary", ":all:", "--constraint", str(limits)]
        where = ["--python-version", target.minor, "--python-platform", uv_platform(target, libc_version)]
        unwanted = [part for name in UNWANTED for part in ("--no-emit-package", name)]
        argv = ["uv", "pip", "compile", *options, *where, *unwanted, "-"]
        wanted = "\n".join(roots(target.python[1]))
        text = subprocess.run(argv, input=wanted, stdout=subprocess.PIPE, text=True, check=True).stdout
    lines = (line for line in text.splitlines() if line and not line.startswith("#"))
    return dict(line.split("==") for line in lines)


def resolve_together(targets: Sequence[Target], libc_version: tuple[int, int]) -> Pins:
    """Return one set of pins that serves every machine: the lower version wherever they differ."""
    constraints = list(CONSTRAINTS)
    while True:
        found = [resolve(target, libc_version, constraints) for target in targets]
        if all(pins == found[0] for pins in found):
            return found[0]
        constraints += disagreements(found)


def disagreements(found: Sequence[Mapping[str, str]]) -> list[str]:
    """Return a constraint for each name that has several versions.

    Raises:
        ValueError: The machines need different distributions, which one lock cannot say.
    """
    limits = []
    for name in sorted(set().union(*found)):
        versions = {Version(pins[name]) for pins in found if name in pins}
        if len(versions) > 1:
            limits.append(f"{name}<={min(versions)}")
    if not limits:
        raise ValueError(f"the machines need different distributions: {[sorted(pins) for pins in found]}")
    return limits


def hashes(target: Target, libc_version: tuple[int, int], pins: Mapping[str, str]) -> dict[str, str]:
    """Return the SHA-256 of the wheel that pip takes for each pin."""
    with tempfile.TemporaryDirectory() as folder:
        options = ["--dry-run", "--ignore-installed", "--report", "-", *selection(target, libc_version)]
        wanted = [f"{name}=={version}" for name, version in pins.items()]
        argv = [sys.executable, "-m", "pip", "install", "--quiet", *options, "--target", folder, *wanted]
        report = json.loads(subprocess.run(argv, stdout=subprocess.PIPE, check=True).stdout)
    return {
        item["metadata"]["name"].lower().replace("_", "-"): item["download_info"]["archive_info"]["hashes"]["sha256"]
        for item in report["install"]
    }


def render(target: Target, libc_version: tuple[int, int], pins: Mapping[str, str], taken: list[dict[str, str]]) -> str:
    """Return the text of a lock."""
    what = " and ".join(roots(target.python[1]))
    lines = [
        f"# {what} with what they need, for CPython {target.minor} on {', '.join(MACHINES)}.",
        f"# needs: {target.libc} {libc_version[0]}.{libc_version[1]}",
        "# Written by `python -m jupyter_dlenv.kernels.lock_runtime`.",
    ]
    for name, version in sorted(pins.items()):
        digests = sorted({machine[name] for machine in taken})
        lines.append(" \\\n    ".join([f"{name}=={version}", *(f"--hash=sha256:{value}" for value in digests)]))
    return "\n".join(lines) + "\n"


def lock(minor: int, libc: str) -> Path:
    """Rewrite one lock and return where it lies."""
    targets = [Target((3, minor), libc, machine) for machine in MACHINES]
    libc_version = libc_floor(minor, libc)
    pins = resolve_together(targets, libc_version)
    taken = [hashes(target, libc_version, pins) for target in targets]
    targets[0].lock.write_text(render(targets[0], libc_version, pins, taken), encoding="utf-8")
    return targets[0].lock


def main(names: Sequence[str]) -> None:
    """Rewrite the named locks (``3.11-glibc``), or all of them."""
    for name in names or NAMES:
        version, _dash, libc = name.partition("-")
        print(lock(int(version.partition(".")[2]), libc))


if __name__ == "__main__":
    main(sys.argv[1:])
