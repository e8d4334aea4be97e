"""The GPUs of this host, through NVML: the only module that loads it."""

from __future__ import annotations

from dataclasses import dataclass

import pynvml


@dataclass(frozen=True)
class Gpu:
    """One GPU. A value that the driver does not tell is None.

    Attributes:
        index: As ``nvidia-smi`` counts.
    """

    index: int
    uuid: str
    name: str
    memory_total_bytes: int | None
    memory_used_bytes: int | None


@dataclass(frozen=True)
class Inventory:
    """All GPUs, or why there are none.

    Attributes:
        driver: Version of the driver, empty when unknown.
        message: Why the list is empty, empty when it is not.
    """

    gpus: tuple[Gpu, ...]
    driver: str = ""
    message: str = ""


def read_inventory() -> Inventory:
    """Return the GPUs of this host now; an empty list with a reason where NVML is absent."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return Inventory((), message=str(error))
    try:
        gpus = tuple(_gpu(index) for index in range(pynvml.nvmlDeviceGetCount()))
        return Inventory(gpus, driver=_text(pynvml.nvmlSystemGetDriverVersion()))
    except pynvml.NVMLError as error:
        return Inventory((), message=str(error))
    finally:
        pynvml.nvmlShutdown()


def utilization() -> dict[str, int]:
    """Return per cent of use in the last moments by UUID; a GPU that cannot tell, as with MIG, is absent."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return {}
    try:
        return dict(filter(None, (_used(index) for index in range(pynvml.nvmlDeviceGetCount()))))
    except pynvml.NVMLError:
        return {}
    finally:
        pynvml.nvmlShutdown()


def _used(index: int) -> tuple[str, int] | None:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    try:
        return _text(pynvml.nvmlDeviceGetUUID(handle)), int(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)
    except pynvml.NVMLError:
        return None


def _gpu(index: int) -> Gpu:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    try:
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        total, used = int(memory.total), int(memory.used)
    except pynvml.NVMLError:
        return Gpu(index, _text(pynvml.nvmlDeviceGetUUID(handle)), _text(pynvml.nvmlDeviceGetName(handle)), None, None)
    return Gpu(index, _text(pynvml.nvmlDeviceGetUUID(handle)), _text(pynvml.nvmlDeviceGetName(handle)), total, used)


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
