"""Looks after a server's kernels: finds those of the server before it, notes their notebooks, keeps the pool filled."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from enum import Enum
from typing import Any, cast

from jupyter_client.kernelspec import NoSuchKernel
from jupyter_core.utils import ensure_async
from tornado.web import HTTPError

from ..errors import DLEnvError
from ..i18n import _
from ..jobs.stalls import Stalls
from ..kernels import pool
from ..kernels.adopt import left_by
from ..kernels.board import BOARD, Phase
from ..kernels.owner import Owner
from ..kernels.pool import KernelPool
from ..kernels.provisioner import ADOPT, ContainerProvisioner
from ..kernels.records import KernelRecord
from ..kernels.sweep import remove_ownerless, sweep
from .idle import GpuIdle
from .losses import GpuLosses

_NOTE_S = 2.0
_FILL_S = 5.0
_IDLE_S = 15.0
_LOSS_S = 15.0
_STALL_S = 30.0
_NOT_FOUND = 404
_SESSION = ("id", "path", "name", "type")


class Found(Enum):
    """What became of a kernel that an earlier server left.

    ``NOT_NOW``: it runs, and could not be taken over; it is left to its grace, or to the next server.
    """

    RUNNING = "running"
    GONE = "gone"
    NOT_NOW = "not now"


class Keeper:
    """The kernels of one Jupyter server, between its start and its stop.

    Args:
        owner: The server.
        kernels: Jupyter's kernel manager.
        sessions: Jupyter's session manager.
    """

    def __init__(self, owner: Owner, kernels: Any, sessions: Any, log: logging.Logger) -> None:
        self._owner = owner
        self._kernels = kernels
        self._sessions = sessions
        self._log = log
        self.pool = KernelPool(owner, log)
        self._idle = GpuIdle(owner.settings, log)
        self._losses = GpuLosses(owner.settings.owner, log)
        self._stalls = Stalls(owner.settings)
        self._tasks: list[asyncio.Task[None]] = []

    async def adopt(self) -> None:
        """Find the kernels again that an earlier server with this root folder left, or remove what is left of them."""
        keep = self._owner.settings.keep_kernels != "never"
        for record in await asyncio.to_thread(left_by, self._owner.server_root):
            if not keep or record.pooled or await self._adopt_one(record) is Found.GONE:
                with contextlib.suppress(DLEnvError):
                    await remove_ownerless(record)
        with contextlib.suppress(DLEnvError):
            await sweep()

    async def _adopt_one(self, record: KernelRecord) -> Found:
        arguments = {"kernel_id": record.kernel_id, "kernel_name": record.environment["name"], "cwd": record.cwd}
        try:
            await ensure_async(self._kernels.start_kernel(**arguments, **{ADOPT: True}))
        except (DLEnvError, HTTPError, NoSuchKernel, OSError, RuntimeError, ValueError) as error:
            self._log.warning(
                _("The kernel {id} was not found again: {error}").format(id=record.kernel_id, error=error)
            )
            ended = isinstance(error, NoSuchKernel) or getattr(error, "status_code", 0) == _NOT_FOUND
            return Found.GONE if ended else Found.NOT_NOW
        if record.session:
            values = {key: record.session.get(key) for key in _SESSION[1:]}
            await self._sessions.save_session(record.session["id"], kernel_id=record.kernel_id, **values)
        self._log.info(
            _("Found the kernel {id} of {name} again").format(id=record.kernel_id, name=arguments["kernel_name"])
        )
        return Found.RUNNING

    def start(self) -> None:
        """Begin the regular work."""
        pool.register(self._owner.server_root, self.pool)
        work = (
            (self.note_sessions, _NOTE_S),
            (self.pool.fill, _FILL_S),
            (self._cull, _IDLE_S),
            (self._losses.look, _LOSS_S),
            (self._stalls.look, _STALL_S),
        )
        self._tasks = [asyncio.ensure_future(self._regularly(function, seconds)) for function, seconds in work]
        for task in self._tasks:
            task.add_done_callback(self._ended)

    async def _regularly(self, function: Callable[[], Awaitable[None]], seconds: float) -> None:
        while True:
            try:
                await function()
            except (DLEnvError, HTTPError, OSError) as error:
                self._log.debug("%s is tried again: %s", function.__name__, error)
            await asyncio.sleep(seconds)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self._log.error("The care of kernels has stopped", exc_info=task.exception())

    def provisioners(self) -> dict[str, ContainerProvisioner]:
        """Return the provisioner of each kernel of ours that runs."""
        found = {}
        for kernel_id in self._kernels.list_kernel_ids():
            provisioner = getattr(self._kernels.get_kernel(kernel_id), "provisioner", None)
            if isinstance(provisioner, ContainerProvisioner) and provisioner.kernel is not None:
                found[kernel_id] = provisioner
        return found

    async def note_sessions(self) -> None:
        """Note which notebook each kernel belongs to, for the next server."""
        mine = self.provisioners()
        if not mine:
            return
        for session in await self._sessions.list_sessions():
            provisioner = mine.get(session["kernel"]["id"])
            if provisioner is not None:
                provisioner.note_session({key: str(session[key] or "") for key in _SESSION})

    async def _cull(self) -> None:
        for kernel_id, reason in (await self._idle.due(self.provisioners(), self._kernels)).items():
            known = BOARD.get(kernel_id)
            self._log.warning(_("Kernel {id}: {message}").format(id=kernel_id, message=reason))
            await ensure_async(self._kernels.shutdown_kernel(kernel_id))
            about = {"environment": known.environment, "image": known.image, "engine": known.engine} if known else {}
            BOARD.update(kernel_id, phase=Phase.ENDED, why=reason, ended_at=time.time(), **about)

    async def stop(self) -> None:
        """End the regular work, the pool, and the ownership of the kernels that are to live on."""
        for task in self._tasks:
            task.cancel()
        for provisioner in self.provisioners().values():
            await provisioner.abandon_start()  # Jupyter would wait for it
        self._losses.stop()
        pool.unregister(self._owner.server_root)
        await self.pool.close()
        if self._owner.settings.keep_kernels == "always":
            await self.note_sessions()
            for kernel_id, provisioner in self.provisioners().items():
                self._release(kernel_id, provisioner)

    def _release(self, kernel_id: str, provisioner: ContainerProvisioner) -> None:
        """Take a kernel out of Jupyter's hands, which would shut it down next."""
        manager = cast(Any, self._kernels.get_kernel(kernel_id))
        manager.stop_restarter()
        self._kernels.stop_watching_activity(kernel_id)
        self._kernels.remove_kernel(kernel_id)
        provisioner.let_go()
        seconds = f"{self._owner.settings.kernel_grace:g}"
        message = _("The kernel {id} goes on for {seconds} s without a server").format(id=kernel_id, seconds=seconds)
        self._log.info(message)
