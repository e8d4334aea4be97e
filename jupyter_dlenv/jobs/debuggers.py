"""Ways to the debuggers of jobs: a port on the loopback for each, for as long as this process serves the job."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from ..engines.docker.engine import DockerEngine
from ..engines.folder import RunFolder
from ..engines.registry import load_engine
from ..shell.tunnel import Tunnel, open_tunnel
from ..shell.ways import Inside, in_container, on_host
from .debugging import WHERE

_LOOK_S = 0.2
_PATIENCE_S = 120.0


def listening_port(said: Mapping[str, Any]) -> int | None:
    """Return the port in what a rank wrote, None where nothing believable is there."""
    port = said.get("port")
    return port if isinstance(port, int) and not isinstance(port, bool) and 0 < port < 65536 else None


@dataclass(frozen=True)
class Waiting:
    """Where a rank waits.

    Attributes:
        engine: The job's engine.
        container: Its container, by id or name; empty for plain processes.
        run: The run folder of the node that the rank is on.
        uids: Accounts that may attach beside this process's own and root: the one that the container runs as.
    """

    engine: str
    container: str
    run: RunFolder
    uids: Collection[int] = ()

    def inside(self) -> Inside:
        """Return the way there."""
        if self.engine != "docker":
            return on_host()
        engine = load_engine("docker")
        assert isinstance(engine, DockerEngine)
        return in_container(engine, self.container)

    async def port(self) -> str:
        """Return the debugger's port, once it listens.

        Raises:
            OSError: It does not.
        """
        for _look in range(int(_PATIENCE_S / _LOOK_S)):
            found = listening_port(await asyncio.to_thread(self.run.files.json, WHERE))
            if found is not None:
                return str(found)
            await asyncio.sleep(_LOOK_S)
        raise TimeoutError


class Debuggers:
    """What is open in this process, by job."""

    def __init__(self, open_way: Callable[..., Any] = open_tunnel) -> None:
        self._open_way = open_way
        self._tunnels: dict[str, Tunnel] = {}

    async def open(self, job_id: str, waiting: Waiting, *, port: int = 0) -> int:
        """Return the port on 127.0.0.1 that leads to a job's debugger; the same one when asked again.

        Connections wait until the debugger is there.

        Args:
            port: Which port is wanted, 0 for any.

        Raises:
            EngineError: The job has ended, or the port is taken.
        """
        known = self._tunnels.get(job_id)
        if known is not None and known.live:
            return known.port
        await self.close(job_id)
        tunnel: Tunnel = await self._open_way(waiting.inside, waiting.port, port=port, uids=waiting.uids)
        self._tunnels[job_id] = tunnel
        return tunnel.port

    async def close(self, job_id: str) -> None:
        """Close the way to a job that has ended; one without a debugger is fine."""
        tunnel = self._tunnels.pop(job_id, None)
        if tunnel is not None:
            await tunnel.close()


DEBUGGERS = Debuggers()
