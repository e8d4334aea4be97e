"""Kernels whose GPUs nobody uses: warned first, shut down later."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..gpus.sampler import utilization
from ..i18n import _
from ..kernels.board import BOARD
from ..kernels.provisioner import ContainerProvisioner
from ..settings import DLEnv


@dataclass(frozen=True)
class Verdict:
    """What is to happen to a kernel now.

    Attributes:
        warn: To be told that it ends soon.
        end: To be shut down.
    """

    warn: bool = False
    end: bool = False


def judge(idle_s: float, *, busy: bool, timeout_s: float, warning_s: float) -> Verdict:
    """Return what happens to a kernel whose GPUs have been idle so long. Pure.

    A kernel that executes something is left alone: it may be loading data for its next step.
    """
    if timeout_s <= 0 or idle_s <= 0 or busy:
        return Verdict()
    return Verdict(warn=timeout_s - warning_s <= idle_s < timeout_s, end=idle_s >= timeout_s)


class GpuIdle:
    """Remembers since when each kernel's GPUs have been idle.

    Args:
        usage: Per cent of use by UUID; GPUs that cannot tell are absent, and count as used.
    """

    def __init__(
        self, settings: DLEnv, log: logging.Logger, usage: Callable[[], Mapping[str, int]] = utilization
    ) -> None:
        self._settings = settings
        self._log = log
        self._usage = usage
        self._since: dict[str, float] = {}
        self._warned: set[str] = set()

    async def due(self, provisioners: Mapping[str, ContainerProvisioner], kernels: Any) -> dict[str, str]:
        """Return the kernels to shut down now with the reason, having warned those whose time comes."""
        timeout = self._settings.cull_gpu_idle_timeout
        holders = {id_: item for id_, item in provisioners.items() if item.kernel and item.kernel.gpu_uuids}
        if not timeout or not holders:
            return {}
        usage = await asyncio.to_thread(self._usage)
        now, due = time.monotonic(), {}
        for kernel_id, provisioner in holders.items():
            assert provisioner.kernel is not None
            used = any(usage.get(uuid, 100) > 0 for uuid in provisioner.kernel.gpu_uuids)
            idle_s = 0.0 if used else now - self._since.setdefault(kernel_id, now)
            busy = kernels.get_kernel(kernel_id).execution_state == "busy"
            verdict = judge(idle_s, busy=busy, timeout_s=timeout, warning_s=self._settings.cull_gpu_idle_warning)
            if used:
                self._since.pop(kernel_id, None)
            self._warn(kernel_id, verdict.warn, timeout - idle_s)
            if verdict.end:
                self._since.pop(kernel_id, None)
                due[kernel_id] = _("Shut down, because its GPUs were idle for {n:.0f} s.").format(n=idle_s)
        return due

    def _warn(self, kernel_id: str, warn: bool, left_s: float) -> None:
        if warn and kernel_id not in self._warned:
            self._warned.add(kernel_id)
            message = _("Its GPUs are idle. It will be shut down in {n:.0f} s unless they are used.").format(n=left_s)
            self._log.warning(_("Kernel {id}: {message}").format(id=kernel_id, message=message))
            BOARD.update(kernel_id, message=message)
        elif not warn and kernel_id in self._warned:
            self._warned.discard(kernel_id)
            BOARD.update(kernel_id, message="")
