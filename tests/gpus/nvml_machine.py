"""A machine with GPUs that is not there: a stand-in for libnvidia-ml answers from a file that a test can change.

``Machine(folder)`` has 8 GPUs. In another process it is seen with ``machine.env()``, in this one within
``machine.loaded()``; the real nvidia-ml-py loads the stand-in as it would load the driver's library.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

SOURCE = Path(__file__).parent / "nvml" / "stand_in.c"
LIBRARY = "libnvidia-ml.so.1"
VARIABLE = "DLENV_TEST_NVML"
GIB = 1 << 30

NOT_SUPPORTED, DRIVER_NOT_LOADED, GPU_IS_LOST, RESET_REQUIRED, VERSION_MISMATCH = 3, 9, 15, 16, 18
UNINITIALIZED, NO_PERMISSION, IRQ_ISSUE, FUNCTION_NOT_FOUND = 1, 4, 11, 13


def build(folder: Path, *, old: bool = False) -> Path:
    """Compile the stand-in into a folder and return the library.

    Args:
        old: Without the calls that a driver of 2020 did not have.
    """
    compiler = shutil.which("gcc") or shutil.which("cc")
    assert compiler, "the stand-in for NVML needs a C compiler: scripts/apt-install gcc libc6-dev"
    library = folder / LIBRARY
    flags = ["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", f"-Wl,-soname,{LIBRARY}"]
    flags += ["-DOLD_DRIVER"] if old else []
    subprocess.run([compiler, *flags, "-o", str(library), str(SOURCE), "-lpthread"], check=True)
    return library


@dataclass
class Process:
    """A process on a GPU.

    Attributes:
        kind: ``c`` computes, ``g`` draws, ``m`` computes through MPS.
        slice: Index of the MIG device it runs on, -1 for the GPU.
    """

    pid: int
    memory: int = GIB
    percent: int = 0
    kind: str = "c"
    slice: int = -1


@dataclass
class Slice:
    """A MIG device."""

    uuid: str
    profile: str
    gpu_instance: int
    compute_instance: int = 0
    total: int = 10 * GIB
    used: int = 0


@dataclass
class Card:
    """A GPU; change it and call ``Machine.write``.

    Attributes:
        lanes: Each NVLink lane as (number, ``g`` for a GPU or ``s`` for a switch, PCI address of the other end).
        nodes: NUMA nodes as a bit set, 0 where NVML does not tell.
    """

    index: int
    uuid: str
    bus: str
    name: str = "NVIDIA H100 80GB HBM3"
    capability: tuple[int, int] = (9, 0)
    total: int = 80 * GIB
    used: int = 0
    reserved: int = GIB // 2
    percent: int = 0
    memory_percent: int = 0
    temperature: int = 31
    milliwatts: int = 71_500
    limit_milliwatts: int = 700_000
    ecc: int = 0
    rows_pending: int = 0
    rows_failed: int = 0
    pages_pending: int = 0
    recovery: int = 0
    nodes: int = 0
    lost: bool = False
    mig_capable: bool = True
    split: bool = False
    slices: dict[int, Slice] = field(default_factory=dict)
    processes: list[Process] = field(default_factory=list)
    lanes: list[tuple[int, str, str]] = field(default_factory=list)
    xids: list[int] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        """Yield what the file says of it."""
        values: dict[str, object] = {
            "uuid": self.uuid,
            "bus": self.bus,
            "name": self.name,
            "minor": self.index,
            "capability": f"{self.capability[0]} {self.capability[1]}",
            "memory": f"{self.total} {self.used} {self.reserved}",
            "utilization": f"{self.percent} {self.memory_percent}",
            "temperature": self.temperature,
            "power": f"{self.milliwatts} {self.limit_milliwatts}",
            "ecc": self.ecc,
            "rows": f"{self.rows_pending} {self.rows_failed}",
            "pages": self.pages_pending,
            "recovery": self.recovery,
            "nodes": self.nodes,
            "lost": int(self.lost),
            "mig": f"{int(self.mig_capable)} {int(self.split)}",
        }
        yield from (f"{key} {value}" for key, value in values.items())
        for number, mig in self.slices.items():
            ids = f"{mig.gpu_instance} {mig.compute_instance}"
            yield f"slice {number} {mig.uuid} {ids} {mig.total} {mig.used} {self.name} MIG {mig.profile}"
        for process in self.processes:
            yield f"process {process.pid} {process.memory} {process.kind} {process.percent} {process.slice}"
        yield from (f"lane {number} {kind} {bus}" for number, kind, bus in self.lanes)
        yield from (f"xid {xid}" for xid in self.xids)


class Machine:
    """Writes the file that the stand-in reads; each method that changes something writes it anew.

    Args:
        folder: Where the file lies, and the library unless one is given.
        gpus: How many there are, without NVLink, four on each of two processors.
    """

    def __init__(self, folder: Path, gpus: int = 8, library: Path | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / "machine.txt"
        self.library = library or build(folder)
        self.driver, self.cuda, self.epoch = "550.54.15", 12040, 1
        self.cards = [
            Card(i, f"GPU-{i:08x}-0000-4000-8000-000000000000", f"00000000:{0x18 + i:02X}:00.0") for i in range(gpus)
        ]
        self.paths = {pair: 30 if pair[0] // 4 == pair[1] // 4 else 50 for pair in self.pairs()}
        self.nvlink = dict.fromkeys(self.pairs(), 5)
        self.faults: list[str] = []
        self.write()

    def env(self) -> Mapping[str, str]:
        """Return the variables with which another process sees this machine."""
        others = os.environ.get("LD_LIBRARY_PATH", "")
        paths = f"{self.library.parent}{':' + others if others else ''}"
        return {VARIABLE: str(self.file), "LD_LIBRARY_PATH": paths}

    @contextmanager
    def loaded(self) -> Iterator[Machine]:
        """Let this process see this machine. The library stays loaded; outside there is no driver."""
        ctypes.CDLL(str(self.library), mode=ctypes.RTLD_GLOBAL)
        saved = os.environ.get(VARIABLE)
        os.environ[VARIABLE] = str(self.file)
        try:
            yield self
        finally:
            self.heal()  # lets go whoever hangs
            del os.environ[VARIABLE]
            if saved is not None:
                os.environ[VARIABLE] = saved

    def pairs(self) -> list[tuple[int, int]]:
        """Return each pair of GPUs once."""
        return [(one, other) for one in range(len(self.cards)) for other in range(one + 1, len(self.cards))]

    def write(self) -> None:
        """Write the file, whole or not at all."""
        lines = [f"driver {self.driver}", f"cuda {self.cuda}", f"epoch {self.epoch}"]
        lines += [f"gpu {card.index} {line}" for card in self.cards for line in card.lines()]
        lines += [f"pair {one} {other} path {level}" for (one, other), level in self.paths.items()]
        lines += [f"pair {one} {other} nvlink {status}" for (one, other), status in self.nvlink.items()]
        fresh = self.file.with_name(f"{self.file.name}.new")
        fresh.write_text("\n".join([*lines, *self.faults, ""]), encoding="utf-8")
        os.replace(fresh, self.file)

    def run(self, index: int, *processes: Process, used: int | None = None) -> None:
        """Let exactly these processes run on a GPU; its memory in use is theirs unless told."""
        card = self.cards[index]
        card.processes = list(processes)
        card.used = sum(process.memory for process in processes) if used is None else used
        self.write()

    def split(self, index: int, *profiles: str) -> list[str]:
        """Split a GPU into MIG devices and return their UUIDs; without profiles make it whole."""
        card = self.cards[index]
        uuids = [f"MIG-{index:08x}-0000-4000-8000-{number:012x}" for number in range(len(profiles))]
        card.slices = {n: Slice(uuids[n], profile, 7 + n) for n, profile in enumerate(profiles)}
        card.split = bool(profiles)
        self.write()
        return uuids

    def bridge(self, one: int, other: int, lanes: int) -> None:
        """Connect two GPUs by NVLink lanes."""
        for here, there in ((self.cards[one], self.cards[other]), (self.cards[other], self.cards[one])):
            begin = len(here.lanes)
            here.lanes += [(begin + number, "g", there.bus) for number in range(lanes)]
        self.nvlink[min(one, other), max(one, other)] = 0
        self.write()

    def switch(self, lanes: int = 18) -> None:
        """Connect all GPUs through NVSwitches."""
        for card in self.cards:
            card.lanes = [(number, "s", f"00000000:{0xA0 + number % 4:02X}:00.0") for number in range(lanes)]
        self.nvlink = dict.fromkeys(self.pairs(), 0)
        self.write()

    def lose(self, index: int) -> None:
        """Let a GPU fall off the bus."""
        self.cards[index].lost = True
        self.write()

    def xid(self, index: int, code: int) -> None:
        """Report a critical error."""
        self.cards[index].xids.append(code)
        self.write()

    def fail(self, function: str, code: int, gpu: int = -1) -> None:
        """Let a call (``*``: every one) return an error, for one GPU or for all."""
        self._fault(f"fault {function} {gpu} error {code}")

    def hang(self, function: str, seconds: float = 0, gpu: int = -1) -> None:
        """Let a call not return for some seconds, or until ``heal``."""
        self._fault(f"fault {function} {gpu} hang {seconds}")

    def garbage(self, function: str, gpu: int = -1) -> None:
        """Let a call answer with bytes that are not UTF-8 and numbers that cannot be."""
        self._fault(f"fault {function} {gpu} garbage")

    def unload(self, code: int = DRIVER_NOT_LOADED) -> None:
        """Take the driver away; ``heal`` loads it anew, and sessions that were open are over."""
        self.epoch += 1
        self.fail("*", code)

    def heal(self) -> None:
        """End all faults."""
        self.faults = []
        self.write()

    def _fault(self, line: str) -> None:
        self.faults.append(line)
        self.write()
