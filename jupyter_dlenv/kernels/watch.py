"""Waits for a kernel's end and explains it once: in the log, on the board, and in the notebook."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace

from .. import background
from ..engines.docker.engine import DockerEngine
from ..engines.docker.events import Happening
from ..errors import DLEnvError, EngineUnavailable
from ..i18n import _
from ..spec import JobState, JobStatus
from .board import BOARD, Phase
from .death import Circumstances, Death, explain_death
from .folder import CHANNELS
from .notice import publish
from .running import LaunchedKernel

_LOOK_S = 0.25
_FIRST_LOOK_S = 1.0
_LOST = JobStatus(JobState.LOST)


class DeathWatch:
    """The watch over one start of a kernel; its work is done on the background thread.

    Args:
        expected: Says whether this end was asked for, so that there is nothing to explain.
    """

    def __init__(self, kernel: LaunchedKernel, expected: Callable[[JobStatus], bool], log: logging.Logger) -> None:
        self.kernel = kernel
        self.ended: JobStatus | None = None
        self._expected = expected
        self._log = log
        self._seen = Circumstances(kernel.environment, memory_limit=kernel.memory_limit)
        self._measured: Future[None] | None = None
        self._concluding = False
        self._unreachable = False
        self._stopped = False

    def start(self) -> None:
        """Begin to watch."""
        engine = self.kernel.engine
        if isinstance(engine, DockerEngine):
            engine.events.watch(self.kernel.native_id, self._told)
            background.start(self._look_later())
        else:
            background.start(self._look_regularly())

    def stop(self) -> None:
        """Watch no more."""
        self._stopped = True
        if isinstance(self.kernel.engine, DockerEngine):
            self.kernel.engine.events.forget(self.kernel.native_id)

    # On the thread of Docker's events ----------------------------------------------------------------------------

    def _told(self, happening: Happening) -> None:
        if happening is Happening.OUT_OF_MEMORY:
            self._seen = replace(self._seen, out_of_memory=True)
            self._measured = background.start(self._measure())
        elif happening is Happening.UNREACHABLE:
            background.start(self._without_daemon())
        else:
            background.start(self.look())

    # On the background thread --------------------------------------------------------------------------------------

    async def _measure(self) -> None:
        assert isinstance(self.kernel.engine, DockerEngine)
        peak = await self.kernel.engine.memory_peak(self.kernel.native_id)
        self._seen = replace(self._seen, memory_peak=peak)

    async def _look_later(self) -> None:
        """Look once at what may have happened before the watch began."""
        await asyncio.sleep(_FIRST_LOOK_S)
        if not self._stopped:
            await self.look()

    async def _look_regularly(self) -> None:
        while self.ended is None and not self._stopped:
            await self.look()
            await asyncio.sleep(_LOOK_S)

    async def _without_daemon(self) -> None:
        """A daemon that is gone may have left its containers running; only their sockets tell."""
        self._unreachable = True
        await asyncio.sleep(_LOOK_S)
        if not self._unreachable or self._stopped:
            return  # a restart that nobody noticed
        message = _("Docker does not answer. The kernel goes on, but it cannot be stopped or restarted until it does.")
        self._log.warning(_("Kernel {id}: {message}").format(id=self.kernel.kernel_id, message=message))
        BOARD.update(self.kernel.kernel_id, message=message)
        while self._unreachable and not self._stopped and self.ended is None:
            if not await asyncio.to_thread(self._listens):
                self._seen = replace(self._seen, daemon_gone=True)
                await self._conclude(_LOST)
            await asyncio.sleep(_LOOK_S)

    def _listens(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(f"{self.kernel.folder.prefix}-{CHANNELS.index('hb') + 1}")
            except BlockingIOError:
                return True
            except OSError:
                return False
        return True

    async def look(self) -> None:
        """Ask the engine, and conclude when the kernel has ended."""
        try:
            status = await self.kernel.status()
        except EngineUnavailable:
            return
        except (DLEnvError, KeyError):
            status = _LOST
        if self._unreachable:
            self._unreachable = False
            BOARD.update(self.kernel.kernel_id, message="")
        if status.state.ended:
            await self._conclude(status)

    async def _conclude(self, status: JobStatus) -> None:
        if self._concluding or self._stopped:
            return
        self._concluding = True
        try:
            if not self._expected(status):
                await self._explain(status)
        finally:
            self.stop()
            self.ended = status

    async def _explain(self, status: JobStatus) -> None:
        kernel = self.kernel
        if self._measured is not None:
            await asyncio.wrap_future(self._measured)
        try:
            lines = await kernel.last_lines()
        except DLEnvError:
            lines = ""
        death = explain_death(status, lines, self._seen)
        self._log.warning(_("Kernel {id}: {message}").format(id=kernel.kernel_id, message=death.text()))
        self._show(death)
        await publish(kernel.folder.path, kernel.folder.prefix, kernel.connection["key"], death.message, lines)

    def _show(self, death: Death) -> None:
        BOARD.update(
            self.kernel.kernel_id,
            phase=Phase.ENDED,
            message="",
            why=death.message,
            last_lines=death.last_lines,
            ended_at=death.at or time.time(),
        )
