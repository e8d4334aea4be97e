"""What a host's GPUs are and do, as values. A value that the driver does not tell is None, never 0."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, IntEnum


class Health(str, Enum):
    """Whether work can be given to a GPU."""

    OK = "ok"
    LOST = "lost"
    FAULTY = "faulty"


class NvmlState(str, Enum):
    """What is known of the driver."""

    OK = "ok"
    ABSENT = "absent"
    UNKNOWN = "unknown"


class Path(IntEnum):
    """The way between two GPUs on the bus, nearest first; the numbers are NVML's."""

    SAME_BOARD = 0
    ONE_SWITCH = 10
    SWITCHES = 20
    HOST_BRIDGE = 30
    NUMA_NODE = 40
    SYSTEM = 50


@dataclass(frozen=True)
class GpuProcess:
    """A process on a GPU, by the host's number.

    Attributes:
        computes: False for graphics (a desktop), which does not keep others from computing.
        sm_percent: Its share of the GPU's time in the last second.
    """

    pid: int
    memory_bytes: int | None = None
    computes: bool = True
    sm_percent: int | None = None


@dataclass(frozen=True)
class Mig:
    """A MIG device: a slice of a GPU with a UUID of its own.

    Attributes:
        index: Among the slices of its GPU.
        profile: As the driver names it, such as ``1g.10gb``.
        gpu_instance, compute_instance: The driver's ids.
        processes: None where the driver does not tell.
    """

    uuid: str
    index: int
    profile: str = ""
    memory_total_bytes: int | None = None
    memory_used_bytes: int | None = None
    gpu_instance: int | None = None
    compute_instance: int | None = None
    processes: tuple[GpuProcess, ...] | None = None


@dataclass(frozen=True)
class Gpu:
    """One GPU.

    Attributes:
        index: As ``nvidia-smi`` counts.
        minor: Number of its device node ``/dev/nvidiaN``.
        bus_id: PCI address.
        memory_used_bytes: Without what the driver reserves for itself, where it tells the two apart.
        capability: Compute capability as (major, minor).
        utilization_percent: Share of the last moment in which it computed.
        memory_utilization_percent: Share of the last moment in which its memory was read or written.
        temperature_c: Degrees Celsius.
        power_w, power_limit_w: Watts.
        processes: None where the driver does not tell.
        mig_enabled: Whether it is split into MIG devices, so that it cannot be leased as a whole.
        ecc_uncorrected: Memory errors since the driver was loaded that could not be corrected.
        xids: Critical errors that the driver reported while we listened.
        health: ``LOST`` once it has fallen off the bus, ``FAULTY`` after an error that needs a reset.
        problem: One sentence for a person, empty when healthy.
    """

    index: int
    uuid: str
    name: str
    minor: int | None = None
    bus_id: str = ""
    numa_node: int | None = None
    memory_total_bytes: int | None = None
    memory_used_bytes: int | None = None
    capability: tuple[int, int] | None = None
    utilization_percent: int | None = None
    memory_utilization_percent: int | None = None
    temperature_c: int | None = None
    power_w: float | None = None
    power_limit_w: float | None = None
    processes: tuple[GpuProcess, ...] | None = None
    mig_enabled: bool = False
    migs: tuple[Mig, ...] = ()
    ecc_uncorrected: int | None = None
    xids: tuple[int, ...] = ()
    health: Health = Health.OK
    problem: str = ""


@dataclass(frozen=True)
class Link:
    """How two GPUs are connected.

    Attributes:
        first, second: UUIDs.
        nvlinks: Number of NVLink lanes between them, through switches too; 0 for none.
        path: The way on the bus, None where the driver does not tell.
    """

    first: str
    second: str
    nvlinks: int = 0
    path: Path | None = None


@dataclass(frozen=True)
class Unit:
    """What can be leased: a whole GPU, or one of its MIG devices.

    Attributes:
        name: The index as a person writes it: ``0``, or ``0:1`` for a MIG device.
    """

    uuid: str
    name: str
    gpu: Gpu
    mig: Mig | None = None

    @property
    def memory_total_bytes(self) -> int | None:
        """All of its memory in bytes."""
        return (self.mig or self.gpu).memory_total_bytes

    @property
    def memory_used_bytes(self) -> int | None:
        """Memory in use, in bytes."""
        return (self.mig or self.gpu).memory_used_bytes

    @property
    def processes(self) -> tuple[GpuProcess, ...] | None:
        """Processes on it, None where the driver does not tell."""
        return (self.mig or self.gpu).processes


@dataclass(frozen=True)
class Inventory:
    """All GPUs, or why there are none.

    Attributes:
        links: One for each pair of GPUs of which something is known.
        driver: Version of the driver, empty when unknown.
        cuda: Newest CUDA version that the driver supports, such as ``12.4``; empty when unknown.
        state: ``UNKNOWN`` when NVML does not answer: what is listed is then what it said last.
        message: Why the list is empty or old, empty when it is neither.
        taken_at: Seconds since the epoch.
    """

    gpus: tuple[Gpu, ...]
    links: tuple[Link, ...] = ()
    driver: str = ""
    cuda: str = ""
    state: NvmlState = NvmlState.OK
    message: str = ""
    taken_at: float = 0.0

    def units(self) -> Iterator[Unit]:
        """Yield what can be leased, in the order of indices."""
        for gpu in self.gpus:
            if not gpu.mig_enabled:
                yield Unit(gpu.uuid, str(gpu.index), gpu)
            for mig in gpu.migs:
                yield Unit(mig.uuid, f"{gpu.index}:{mig.index}", gpu, mig)
