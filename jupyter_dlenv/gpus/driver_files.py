"""What the NVIDIA driver put on this host: device nodes, libraries, and ``nvidia-smi``.

This is what the NVIDIA Container Toolkit hands into a container; here for hosts that have the driver and no toolkit.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import NoGpu
from ..i18n import _
from ..resources import Mount
from ..spec import CONTAINER_ROOT
from .model import Gpu, Unit

LIBRARY_DIR = f"{CONTAINER_ROOT}/driver"
PROGRAM_DIR = f"{CONTAINER_ROOT}/driver/bin"
UVM_REMEDY = "sudo nvidia-modprobe -c 0 -u"

_CUDA = "libcuda.so.1"
_LIBRARIES = re.compile(
    r"(libcuda|libcudadebugger|libnvidia-ml|libnvidia-cfg|libnvidia-ptxjitcompiler|libnvidia-nvvm\w*|libnvidia-gpucomp"
    r"|libnvidia-compiler|libnvidia-fatbinaryloader|libnvidia-opencl|libnvidia-allocator|libnvidia-sandboxutils"
    r"|libnvidia-pkcs11|libnvidia-pkcs11-openssl3)\.so\.[0-9.]+"
)
"""By the names that programs look for; what the toolkit calls compute and utility."""

_CACHED = re.compile(r"^\s+(\S+) \(([^)]*)\) => (\S+)$", re.MULTILINE)
_ABI = {"x86_64": "x86-64", "aarch64": "AArch64", "ppc64le": "64bit"}
_NODE = re.compile(r"nvidia(\d+|ctl|-uvm|-uvm-tools)")
_CAPABILITIES = "proc/driver/nvidia/capabilities"
_LDCONFIG = ("/sbin/ldconfig", "/usr/sbin/ldconfig")
_TIMEOUT_S = 10


@dataclass(frozen=True)
class DriverFiles:
    """The driver's files on this host.

    Attributes:
        nodes: Paths of the device nodes that are there.
        minors: Number of each GPU's node by UUID, where the kernel module tells it.
        capabilities: Number of each MIG capability's node, by its path: ``gpu0/mig/gi1/access``.
        libraries: Files by the name that programs look for: ``libcuda.so.1``.
        nvidia_smi: The program's file, empty when there is none.
    """

    nodes: tuple[str, ...] = ()
    minors: Mapping[str, int] = field(default_factory=dict)
    capabilities: Mapping[str, int] = field(default_factory=dict)
    libraries: Mapping[str, str] = field(default_factory=dict)
    nvidia_smi: str = ""

    @property
    def has_cuda(self) -> bool:
        """True when the library is there without which nothing computes."""
        return _CUDA in self.libraries


def find_driver_files(host_root: Path = Path("/")) -> DriverFiles:
    """Return what of the driver lies on this host; nothing is loaded and nobody is asked but the linker's cache."""
    program = host_root / "usr/bin/nvidia-smi"
    return DriverFiles(
        nodes=tuple(sorted(_nodes(host_root))),
        minors=dict(_minors(host_root)),
        capabilities=dict(_capabilities(host_root)),
        libraries=_libraries(host_root),
        nvidia_smi=os.path.realpath(program) if program.is_file() else "",
    )


def _nodes(host_root: Path) -> Iterator[str]:
    folders = {"/dev": _NODE, "/dev/nvidia-caps": re.compile(r"nvidia-cap\d+")}
    for folder, pattern in folders.items():
        here = host_root / folder.lstrip("/")
        names = os.listdir(here) if here.is_dir() else []
        yield from (f"{folder}/{name}" for name in names if pattern.fullmatch(name))


def _minors(host_root: Path) -> Iterator[tuple[str, int]]:
    for path in host_root.glob("proc/driver/nvidia/gpus/*/information"):
        text = _read(path)
        uuid, minor = re.search(r"GPU UUID:\s*(GPU-[0-9a-f-]+)", text), re.search(r"Device Minor:\s*(\d+)", text)
        if uuid and minor:
            yield uuid.group(1), int(minor.group(1))


def _capabilities(host_root: Path) -> Iterator[tuple[str, int]]:
    base = host_root / _CAPABILITIES
    for pattern in ("gpu*/mig/gi*/access", "gpu*/mig/gi*/ci*/access"):
        for path in base.glob(pattern):
            number = re.search(r"DeviceFileMinor:\s*(\d+)", _read(path))
            if number:
                yield path.relative_to(base).as_posix(), int(number.group(1))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _libraries(host_root: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, path in cached_libraries(_linker_cache(host_root), platform.machine()):
        real = os.path.realpath(host_root / path.lstrip("/"))
        if name not in found and os.path.isfile(real):
            found[name] = real
    return found


def _linker_cache(host_root: Path) -> str:
    program = next((path for path in _LDCONFIG if os.access(path, os.X_OK)), "ldconfig")
    cache = host_root / "etc/ld.so.cache"
    try:
        done = subprocess.run([program, "-p", "-C", str(cache)], capture_output=True, timeout=_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode(errors="replace")


def cached_libraries(text: str, machine: str) -> list[tuple[str, str]]:
    """Return name and path of the driver's libraries in the output of ``ldconfig -p``, those for this machine only."""
    abi = _ABI.get(machine, "")
    entries = _CACHED.findall(text)
    return [(name, path) for name, tags, path in entries if abi in tags and _LIBRARIES.fullmatch(name)]


def device_nodes(units: Sequence[Unit], files: DriverFiles) -> tuple[str, ...]:
    """Return the device nodes that these GPUs need, and no other GPU's.

    Raises:
        NoGpu: One of them is not on this host.
    """
    own = [path for unit in units for path in _nodes_of(unit, files)]
    needed = ["/dev/nvidiactl", "/dev/nvidia-uvm", *own]
    for path in needed:
        if path not in files.nodes:
            remedy = UVM_REMEDY if path == "/dev/nvidia-uvm" else "nvidia-smi"
            raise NoGpu(_("The device node {path} is not on this host.").format(path=path), hint=remedy)
    tools = [path for path in ("/dev/nvidia-uvm-tools",) if path in files.nodes]
    return tuple(dict.fromkeys(needed[:2] + tools + own))


def _nodes_of(unit: Unit, files: DriverFiles) -> list[str]:
    minor = _minor(unit.gpu, files)
    if unit.mig is None:
        return [f"/dev/nvidia{minor}"]
    instance = f"gpu{minor}/mig/gi{unit.mig.gpu_instance}"
    keys = (f"{instance}/access", f"{instance}/ci{unit.mig.compute_instance}/access")
    missing = next((key for key in keys if key not in files.capabilities), "")
    if missing:
        raise NoGpu(
            _("The driver does not tell which device node opens MIG device {uuid} ({path} is missing).").format(
                uuid=unit.uuid, path=f"/{_CAPABILITIES}/{missing}"
            ),
            hint="sudo nvidia-modprobe -c 0 -u && nvidia-smi -L",
        )
    return [f"/dev/nvidia{minor}", *(f"/dev/nvidia-caps/nvidia-cap{files.capabilities[key]}" for key in keys)]


def _minor(gpu: Gpu, files: DriverFiles) -> int:
    minor = gpu.minor if gpu.minor is not None else files.minors.get(gpu.uuid)
    if minor is None:
        raise NoGpu(
            _("The driver does not tell the device node of GPU {uuid}.").format(uuid=gpu.uuid), hint="nvidia-smi"
        )
    return minor


def library_mounts(files: DriverFiles) -> tuple[Mount, ...]:
    """Return the driver's files as read-only mounts, one a file, so that nothing else of the host shows."""
    mounts = [Mount(path, f"{LIBRARY_DIR}/{name}", read_only=True) for name, path in sorted(files.libraries.items())]
    if files.has_cuda:  # by this name what compiles in the container links it
        mounts.append(Mount(files.libraries[_CUDA], f"{LIBRARY_DIR}/libcuda.so", read_only=True))
    if files.nvidia_smi:
        mounts.append(Mount(files.nvidia_smi, f"{PROGRAM_DIR}/nvidia-smi", read_only=True))
    return tuple(mounts)
