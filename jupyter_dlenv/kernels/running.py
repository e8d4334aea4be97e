"""A kernel that runs: its status, its signals, its end, and what is left of it."""

from __future__ import annotations

import asyncio
import contextlib
import re
from dataclasses import dataclass, field
from typing import Any

from ..engines.docker.engine import DockerEngine
from ..engines.process import ProcessEngine
from ..errors import JobNotFound
from ..gpus.lease import Lease
from ..lastwords import read_words
from ..server.sockets import Listener
from ..spec import JobStatus
from .board import BOARD
from .folder import KernelFolder
from .records import forget
from .sweep import cleaned

_LAST_LINES = 30
_CONTROL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f]")
_OURS = 'File "/dlenv/runtime/'


@dataclass(frozen=True)
class LaunchedKernel:
    """A kernel that runs, or ran.

    Attributes:
        kernel_id: Jupyter's name for it. The folder of one that came from a pool has another.
        environment: Its environment's name.
        native_id: The engine's own name for it; empty before it was accepted.
        digest: What it was started from; the same again can be started in the same container.
        connection: Jupyter's connection information, as seen from the host.
        attempt: Number of this start, from 1.
    """

    kernel_id: str
    environment: str
    engine: DockerEngine | ProcessEngine
    native_id: str
    digest: str
    folder: KernelFolder
    connection: dict[str, Any]
    listener: Listener
    attempt: int = 1
    lease: Lease = field(default_factory=Lease)
    memory_limit: int | None = None
    labels: dict[str, str] = field(default_factory=dict)

    @property
    def gpu_uuids(self) -> tuple[str, ...]:
        """The GPUs that it holds."""
        return self.lease.gpus.uuids

    async def status(self) -> JobStatus:
        """Return the kernel's status; one whose container is gone was removed from outside."""
        if isinstance(self.engine, DockerEngine):
            return await self.engine.status(self.native_id)
        found = await self.engine.poll([self.kernel_id])
        return found[self.kernel_id]

    async def signal(self, signum: int) -> None:
        """Deliver a signal; a kernel that has just ended needs none."""
        if isinstance(self.engine, DockerEngine):
            await self.engine.kill(self.native_id, signum)
            return
        with contextlib.suppress(JobNotFound):
            await self.engine.signal(self.kernel_id, signum)

    async def last_lines(self) -> str:
        """Return what the kernel wrote last: in its cells, then beside them (a native library's last cry)."""
        name = self.native_id if isinstance(self.engine, DockerEngine) else self.kernel_id
        words = await asyncio.to_thread(read_words, str(self.folder.path))
        lines = words.splitlines() + (await self.engine.console(name, 2 * _LAST_LINES)).splitlines()
        plain = [_CONTROL.sub("", line) for line in lines]
        told = [line for line in plain if not line.lstrip().startswith(_OURS)]  # a crash's frames below the cell
        return "\n".join(told[-_LAST_LINES:]).strip()

    async def remove_replica(self) -> None:
        """Remove the container or process, and keep the folder and the job socket for the next start."""
        if isinstance(self.engine, DockerEngine) and self.native_id:
            await self.engine.discard(self.native_id)
        else:
            await self.engine.remove(self.kernel_id)

    async def clean(self) -> None:
        """Leave nothing."""
        await self.remove_replica()
        self.lease.close()
        cleaned(self.kernel_id)
        self.listener.close()
        self.folder.remove()
        forget(self.folder.id)
        BOARD.forget(self.kernel_id)

    def let_go(self) -> None:
        """Leave the kernel running for another process to adopt; its folder and record stay."""
        cleaned(self.kernel_id)
        self.lease.close()
        self.listener.close()
        self.folder.release()
        BOARD.forget(self.kernel_id)

    async def ended(self) -> bool:
        """True when the kernel runs no more."""
        return (await self.status()).state.ended
