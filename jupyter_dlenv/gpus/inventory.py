"""The GPUs of this host, read through NVML; the only module that talks to the driver."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pynvml

from ..i18n import _
from .health import Signs, judge
from .model import Gpu, GpuProcess, Inventory, Link, Mig, NvmlState
from .plausible import MOST_BYTES, MOST_GPUS, MOST_PID, capability, cuda, profile, text, uuid, within
from .topology import Ports, links, same_bus

_GONE = (pynvml.NVMLError_Uninitialized, pynvml.NVMLError_DriverNotLoaded, pynvml.NVMLError_LibRmVersionMismatch)
_ABSENT = (pynvml.NVMLError_LibraryNotFound, pynvml.NVMLError_DriverNotLoaded)
_LOST = pynvml.NVMLError_GpuIsLost
_NO_SUCH = (pynvml.NVMLError_InvalidArgument, pynvml.NVMLError_NotFound, pynvml.NVMLError_NoPermission)

# Newer than the oldest nvidia-ml-py that we take.
_RECOVERY = getattr(pynvml, "NVML_FI_DEV_GET_GPU_RECOVERY_ACTION", 230)
_COMPUTE_BEFORE = getattr(pynvml, "nvmlDeviceGetComputeRunningProcesses_v2", None)
_MOST_EVENTS = 64
_REOPEN_S = 60.0
"""A lost GPU comes back in a new session with the driver only."""


@dataclass
class _Card:
    """What one session with the driver knows of a GPU.

    Attributes:
        fixed: What does not change while the session lasts.
        events: Where the driver reports Xids, None if it does not.
        refused: Calls that the GPU does not support; asking again would be in vain until it is split or whole again.
        split: Whether it is split into MIG devices.
        reset_required: It has refused an answer until it is reset.
    """

    handle: Any
    fixed: Gpu
    events: Any = None
    xids: tuple[int, ...] = ()
    refused: set[Any] = field(default_factory=set)
    split: bool = False
    reset_required: bool = False

    def ask(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """Return the answer, None where the GPU has none."""
        return self.ask_of(self.handle, call, *arguments)

    def ask_of(self, handle: Any, call: Callable[..., Any], *arguments: Any) -> Any:
        """Ask the same of one of its MIG devices."""
        if call in self.refused:
            return None
        try:
            return call(handle, *arguments)
        except (*_GONE, _LOST):
            raise
        except pynvml.NVMLError_ResetRequired:
            self.reset_required = True
        except (pynvml.NVMLError_NotSupported, pynvml.NVMLError_FunctionNotFound):
            if handle is self.handle:
                self.refused.add(call)
        except (pynvml.NVMLError, ValueError, MemoryError):  # a name that is not UTF-8, an absurd count
            pass
        return None


class NvmlReader:
    """Reads all that NVML tells, again and again; keeps the session, and in it what does not change.

    While a session is open the driver's device nodes are in use, so an administrator cannot reset a GPU: whoever reads
    no more closes it. Not to be called by two threads at once.

    Args:
        sysfs: Where the kernel tells the NUMA nodes of PCI devices.
    """

    def __init__(self, sysfs: Path = Path("/sys")) -> None:
        self._sysfs = sysfs
        self._opened: float | None = None
        self._cards: dict[int, _Card] = {}
        self._lost: set[int] = set()
        self._links: tuple[Link, ...] = ()
        self._last: Inventory | None = None
        self._driver, self._cuda = "", ""

    def read(self) -> Inventory:
        """Return the GPUs now; raises nothing, because a driver may be absent, or go and come back."""
        now = time.time()
        if self._lost and self._opened is not None and time.monotonic() - self._opened > _REOPEN_S:
            self.close()
        try:
            self._last = self._read(now)
        except pynvml.NVMLError as error:
            self.close()
            return self._without(error, now)
        return self._last

    def close(self) -> None:
        """End the session; the next reading opens another."""
        if self._opened is None:
            return
        for card in self._cards.values():
            _quietly(pynvml.nvmlEventSetFree, card.events)
        self._opened, self._cards, self._links = None, {}, ()
        _quietly(pynvml.nvmlShutdown)

    def _read(self, now: float) -> Inventory:
        try:
            return self._inventory(now)
        except _GONE:  # perhaps the driver was loaded anew, and the session is of the old one
            self.close()
            return self._inventory(now)

    def _without(self, error: pynvml.NVMLError, now: float) -> Inventory:
        if self._last is None and isinstance(error, _ABSENT):
            return Inventory((), state=NvmlState.ABSENT, message=_words(error), taken_at=now)
        if self._last is None:
            return Inventory((), state=NvmlState.UNKNOWN, message=_words(error), taken_at=now)
        return replace(self._last, state=NvmlState.UNKNOWN, message=_words(error))

    def _inventory(self, now: float) -> Inventory:
        if self._opened is None:
            pynvml.nvmlInit()
            self._opened, self._lost = time.monotonic(), set()
            self._driver = text(_told(pynvml.nvmlSystemGetDriverVersion))
            self._cuda = cuda(_told(pynvml.nvmlSystemGetCudaDriverVersion_v2))
        before = {card.fixed.uuid for card in self._cards.values()}
        count = min(pynvml.nvmlDeviceGetCount(), MOST_GPUS)
        gpus = self._distinct(list(self._gpus(count)))
        self._cards = {index: card for index, card in self._cards.items() if index < count}
        if {card.fixed.uuid for card in self._cards.values()} != before:
            self._links = self._topology()
        return Inventory(gpus, self._links, self._driver, self._cuda, taken_at=now)

    def _gpus(self, count: int) -> Iterator[Gpu]:
        for index in range(count):
            try:
                yield self._gpu(index)
            except _GONE:
                raise
            except _LOST:
                yield self._unusable(index, Signs(lost=True))
            except _NO_SUCH:  # or a GPU that a container's rules keep from us
                self._cards.pop(index, None)
            except pynvml.NVMLError as error:
                yield self._unusable(index, Signs(unreadable=str(error)))

    def _unusable(self, index: int, signs: Signs) -> Gpu:
        card = self._cards.get(index)
        known = replace(card.fixed, xids=card.xids) if card else self._seen(index)
        health, problem = judge(signs)
        if signs.lost:
            self._lost.add(index)
        return replace(known, health=health, problem=problem)

    def _seen(self, index: int) -> Gpu:
        """A GPU that was lost before this session began is known from an earlier one."""
        seen = [gpu for gpu in (self._last.gpus if self._last else ()) if gpu.index == index]
        return _identity(seen[0]) if seen else Gpu(index, "", "")

    def _distinct(self, gpus: list[Gpu]) -> tuple[Gpu, ...]:
        """Take back a guess at who is lost where that GPU turns out to have another number now."""
        sure = {card.fixed.uuid for card in self._cards.values()}
        wrong = [gpu for gpu in gpus if gpu.index not in self._cards and gpu.uuid in sure]
        return tuple(replace(gpu, uuid="", name="", bus_id="") if gpu in wrong else gpu for gpu in gpus)

    def _gpu(self, index: int) -> Gpu:
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        name = uuid(_told(pynvml.nvmlDeviceGetUUID, handle))
        if not name:
            return self._unusable(index, Signs(unreadable=_("it does not tell its UUID")))
        card = self._cards.get(index)
        if card is None or card.fixed.uuid != name:
            card = self._cards[index] = _card(index, handle, name, self._sysfs)
        _listen(card)
        self._lost.discard(index)
        return _now(card)

    def _topology(self) -> tuple[Link, ...]:
        cards = list(self._cards.values())
        addresses = {same_bus(card.fixed.bus_id) for card in cards}

        def path(one: int, other: int) -> Any:
            return _told(pynvml.nvmlDeviceGetTopologyCommonAncestor, cards[one].handle, cards[other].handle)

        def reachable(one: int, other: int) -> bool | None:
            kind = pynvml.NVML_P2P_CAPS_INDEX_NVLINK
            status = _told(pynvml.nvmlDeviceGetP2PStatus, cards[one].handle, cards[other].handle, kind)
            return None if status is None else status == pynvml.NVML_P2P_STATUS_OK

        try:
            return links([_ports(card, addresses) for card in cards], path, reachable)
        except _LOST:
            return ()


def _card(index: int, handle: Any, name: str, sysfs: Path) -> _Card:
    """Ask what does not change."""
    card = _Card(handle, Gpu(index, name, ""))
    bus_id = _bus_id(card.ask(pynvml.nvmlDeviceGetPciInfo_v3))
    card.fixed = Gpu(
        index,
        name,
        text(card.ask(pynvml.nvmlDeviceGetName)),
        minor=within(card.ask(pynvml.nvmlDeviceGetMinorNumber), 1 << 16),
        bus_id=bus_id,
        numa_node=_numa_node(card, bus_id, sysfs),
        capability=capability(card.ask(pynvml.nvmlDeviceGetCudaComputeCapability)),
    )
    _register(card)
    return card


def _register(card: _Card) -> None:
    kinds = card.ask(pynvml.nvmlDeviceGetSupportedEventTypes) or 0
    if kinds & pynvml.nvmlEventTypeXidCriticalError:
        card.events = _told(pynvml.nvmlEventSetCreate)
        if card.events is not None:
            card.ask(pynvml.nvmlDeviceRegisterEvents, pynvml.nvmlEventTypeXidCriticalError, card.events)


def _listen(card: _Card) -> None:
    """Take the Xids that were reported since the last time, without waiting for any."""
    for _turn in range(_MOST_EVENTS if card.events is not None else 0):
        event = _told(pynvml.nvmlEventSetWait_v2, card.events, 0)
        if event is None:
            return
        if event.eventType == pynvml.nvmlEventTypeXidCriticalError and event.eventData not in card.xids:
            card.xids = (*card.xids, int(event.eventData))


def _now(card: _Card) -> Gpu:
    """Ask what changes."""
    total, used = _memory(card, card.handle)
    rates = card.ask(pynvml.nvmlDeviceGetUtilizationRates)
    power = within(card.ask(pynvml.nvmlDeviceGetPowerUsage), 10**7)
    limit = within(card.ask(pynvml.nvmlDeviceGetEnforcedPowerLimit), 10**7)
    mode = card.ask(pynvml.nvmlDeviceGetMigMode)
    split = bool(mode) and mode[0] == pynvml.NVML_DEVICE_MIG_ENABLE
    if split != card.split:
        card.split = split
        card.refused.clear()
    percent = within(rates.gpu, 100) if rates else None
    errors = (pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, pynvml.NVML_VOLATILE_ECC)
    gpu = replace(
        card.fixed,
        memory_total_bytes=total,
        memory_used_bytes=used,
        utilization_percent=percent,
        memory_utilization_percent=within(rates.memory, 100) if rates else None,
        temperature_c=within(card.ask(pynvml.nvmlDeviceGetTemperature, pynvml.NVML_TEMPERATURE_GPU), 200),
        power_w=None if power is None else power / 1000,
        power_limit_w=None if limit is None else limit / 1000,
        processes=_processes(card, card.handle, total, percent),
        mig_enabled=split,
        migs=tuple(_migs(card)) if split else (),
        ecc_uncorrected=within(card.ask(pynvml.nvmlDeviceGetTotalEccErrors, *errors), 1 << 62),
        xids=card.xids,
    )
    health, problem = judge(_signs(card))
    return replace(gpu, health=health, problem=problem)


def _signs(card: _Card) -> Signs:
    rows = card.ask(pynvml.nvmlDeviceGetRemappedRows) or (0, 0, 0, 0)
    pages = card.ask(pynvml.nvmlDeviceGetRetiredPagesPendingStatus)
    fields = card.ask(pynvml.nvmlDeviceGetFieldValues, [_RECOVERY])
    recovery = fields[0].value.uiVal if fields and fields[0].nvmlReturn == pynvml.NVML_SUCCESS else None
    return Signs(card.xids, False, card.reset_required, recovery, rows[2] == 1, rows[3] == 1, pages == 1)


def _memory(card: _Card, handle: Any) -> tuple[int | None, int | None]:
    """Return total and used bytes; only the newer call tells what the driver reserves from what is used."""
    memory = card.ask_of(handle, _memory_apart) or card.ask_of(handle, pynvml.nvmlDeviceGetMemoryInfo)
    total = within(memory.total, MOST_BYTES) if memory else None
    return total or None, within(memory.used, total) if total else None


def _memory_apart(handle: Any) -> Any:
    return pynvml.nvmlDeviceGetMemoryInfo(handle, pynvml.nvmlMemory_v2)


def _processes(card: _Card, handle: Any, total: int | None, percent: int | None) -> tuple[GpuProcess, ...] | None:
    compute = card.ask_of(handle, pynvml.nvmlDeviceGetComputeRunningProcesses_v3)
    if compute is None and _COMPUTE_BEFORE is not None:
        compute = card.ask_of(handle, _COMPUTE_BEFORE)
    if compute is None:
        return None
    clients = card.ask_of(handle, pynvml.nvmlDeviceGetMPSComputeRunningProcesses_v3) or ()
    drawing = card.ask_of(handle, pynvml.nvmlDeviceGetGraphicsRunningProcesses_v3) or ()
    shares = _shares(card, percent) if handle is card.handle and (compute or clients or drawing) else None
    found: dict[int, GpuProcess] = {}
    for processes, computes in ((compute, True), (clients, True), (drawing, False)):
        for process in processes:
            pid, used = int(process.pid), process.usedGpuMemory
            if pid not in found and 0 <= pid <= MOST_PID:
                size = within(used, total or MOST_BYTES)
                found[pid] = GpuProcess(pid, size, computes, None if shares is None else shares.get(pid, 0))
    return tuple(found[pid] for pid in sorted(found))


def _shares(card: _Card, percent: int | None) -> Mapping[int, int | None] | None:
    """Return each process's share in the last second; those that did nothing are absent. None where it is not told."""
    since = int((time.time() - 1) * 1e6)
    samples = card.ask(pynvml.nvmlDeviceGetProcessUtilization, since)
    if samples is None:  # NVML answers so too when no process did anything
        return {} if percent == 0 and pynvml.nvmlDeviceGetProcessUtilization not in card.refused else None
    latest = sorted(samples, key=lambda sample: sample.timeStamp)
    return {int(sample.pid): within(sample.smUtil, 100) for sample in latest}


def _migs(card: _Card) -> Iterator[Mig]:
    for index in range(within(card.ask(pynvml.nvmlDeviceGetMaxMigDeviceCount), 64) or 0):
        handle = card.ask(pynvml.nvmlDeviceGetMigDeviceHandleByIndex, index)
        name = uuid(card.ask_of(handle, pynvml.nvmlDeviceGetUUID)) if handle is not None else ""
        if not name:
            continue
        yield Mig(
            name,
            index,
            profile(card.ask_of(handle, pynvml.nvmlDeviceGetName)),
            *_memory(card, handle),
            gpu_instance=within(card.ask_of(handle, pynvml.nvmlDeviceGetGpuInstanceId), 1 << 16),
            compute_instance=within(card.ask_of(handle, pynvml.nvmlDeviceGetComputeInstanceId), 1 << 16),
            processes=_processes(card, handle, None, None),
        )


def _ports(card: _Card, addresses: Iterable[str]) -> Ports:
    peers, switched = [], 0
    for lane in range(pynvml.NVML_NVLINK_MAX_LINKS):
        if card.ask(pynvml.nvmlDeviceGetNvLinkState, lane) != pynvml.NVML_FEATURE_ENABLED:
            continue
        kind = card.ask(pynvml.nvmlDeviceGetNvLinkRemoteDeviceType, lane)
        peer = _bus_id(card.ask(pynvml.nvmlDeviceGetNvLinkRemotePciInfo, lane))
        if kind == pynvml.NVML_NVLINK_DEVICE_TYPE_SWITCH or (kind is None and same_bus(peer) not in addresses):
            switched += 1
        else:
            peers.append(peer)
    return Ports(card.fixed.uuid, card.fixed.bus_id, tuple(peers), switched)


def _bus_id(pci: Any) -> str:
    return text(_told(getattr, pci, "busId", ""))  # pynvml decodes it when it is looked at


def _numa_node(card: _Card, bus_id: str, sysfs: Path) -> int | None:
    """Return the node whose processors are next to it; NVML tells the same as a set of nodes.

    NVML's own ``nvmlDeviceGetNumaNodeId`` means something else: the node that a GPU's memory is, where it is one.
    """
    try:
        node = int((sysfs / "bus" / "pci" / "devices" / same_bus(bus_id) / "numa_node").read_text(encoding="ascii"))
        return node if node >= 0 else None
    except (OSError, ValueError):
        mask = card.ask(pynvml.nvmlDeviceGetMemoryAffinity, 1, pynvml.NVML_AFFINITY_SCOPE_NODE)
        bits = int(mask[0]) if mask else 0
        return bits.bit_length() - 1 if bits and not bits & (bits - 1) else None


def _identity(gpu: Gpu) -> Gpu:
    return Gpu(gpu.index, gpu.uuid, gpu.name, gpu.minor, gpu.bus_id, gpu.numa_node, capability=gpu.capability)


def _told(call: Callable[..., Any], *arguments: Any) -> Any:
    """Return the answer to a question that stands outside any card, None where there is none."""
    try:
        return call(*arguments)
    except (*_GONE, _LOST):
        raise
    except (pynvml.NVMLError, ValueError):
        return None


def _quietly(call: Callable[..., Any], *arguments: Any) -> None:
    """Give something back, to a driver that may be gone."""
    if None not in arguments:
        try:
            call(*arguments)
        except pynvml.NVMLError:
            return


def _words(error: pynvml.NVMLError) -> str:
    if isinstance(error, pynvml.NVMLError_LibRmVersionMismatch):
        return _("The NVIDIA driver was replaced by another version. Start this process again, or else the host.")
    return str(error)
