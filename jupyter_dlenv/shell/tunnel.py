"""A socket on this host that leads to a port inside a container, of which nothing is published.

All of it works on the background thread, whoever asks for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path
from typing import Any

from .. import background
from ..errors import DLEnvError, EngineError
from ..i18n import _
from .ways import Inside

Destination = Callable[[], Awaitable[str]]
"""Says where a connection leads: a port of the loopback inside, or the path of a Unix socket there."""

_SHORT_ENOUGH = 60


def peer_uid(table: str, port: int, own_port: int) -> int | None:
    """Return whose a connection from the loopback is, by ``/proc/net/tcp``; None when that cannot be told.

    Args:
        table: The file's text.
        port: Where the connection comes from.
        own_port: Where it was accepted.
    """
    ends = [f"0100007F:{number:04X}" for number in (port, own_port)]
    for line in table.splitlines()[1:]:
        words = line.split()
        if words[1:3] == ends and words[9] != "0":  # without an inode its owner is gone, and the number means nothing
            return int(words[7])
    return None


class Tunnel:
    """A socket on this host for one destination inside; :meth:`close` ends it with all its connections.

    Attributes:
        path: The Unix socket, empty for a port.
        port: The port on 127.0.0.1, 0 for a Unix socket.
        tool_port: Where the tool that goes with it listens inside.
    """

    def __init__(self, inside: Inside, destination: Destination, uids: Collection[int]) -> None:
        self._inside, self._destination = inside, destination
        self._uids = frozenset((0, os.geteuid(), *uids))
        self._connections: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._used = time.monotonic()
        self.path, self.port, self.tool_port = "", 0, 0

    async def _listen(self, port: int | None) -> None:
        if port is None:
            self.path = str(Path(tempfile.mkdtemp(prefix="dlenv-", dir=_short_folder()), "s"))
            self._server = await asyncio.start_unix_server(self._accept, self.path)
        else:
            try:
                self._server = await asyncio.start_server(self._accept, "127.0.0.1", port)
            except OSError as error:
                raise EngineError(
                    _("Nothing can listen at 127.0.0.1:{port}: {error}.").format(port=port, error=error.strerror)
                ) from error
            self.port = int(self._server.sockets[0].getsockname()[1])

    @property
    def live(self) -> bool:
        """False once what it leads to is known to have ended."""
        return self._inside.live

    @property
    def idle_since(self) -> float | None:
        """When its last connection ended, by a clock that only goes forward; None while one is open."""
        return None if self._connections else self._used

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._connections.discard(task)
        self._used = time.monotonic()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if self.path or self._may(writer.get_extra_info("peername")[1]):
                await self._inside.relay(await self._destination(), reader, writer)
        except (OSError, DLEnvError):
            writer.transport.abort()  # nobody listens there, or it has ended
        finally:
            writer.close()

    def _may(self, peer_port: int) -> bool:
        """Anybody on this host can connect to a loopback port; only the owner's own programs are served."""
        return peer_uid(Path("/proc/net/tcp").read_text(encoding="utf-8"), peer_port, self.port) in self._uids

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in list(self._connections):
            task.cancel()
        await self._inside.close()
        if self.path:
            shutil.rmtree(Path(self.path).parent, ignore_errors=True)

    async def runs(self) -> bool:
        """Ask whether what it leads to still runs, from any event loop; starts nothing there."""
        return bool(await _there(self._inside.check))

    async def check(self) -> bool:
        """Make sure that it leads somewhere, from any event loop; what was killed there is started again."""
        if await self.runs():
            with contextlib.suppress(DLEnvError):
                await _there(self._inside.begin)
        return self.live

    async def close(self) -> None:
        """End it, from any event loop."""
        await _there(self._close)

    def close_now(self) -> None:
        """End it, from a thread without one."""
        background.run(self._close)


def _short_folder() -> str | None:
    """Return a folder in which a socket's path fits, None for the usual one."""
    return None if len(tempfile.gettempdir()) < _SHORT_ENOUGH else "/tmp"


async def _there(work: Callable[[], Any]) -> Any:
    return await asyncio.wrap_future(background.start(work()))


async def open_tunnel(
    make: Callable[[], Inside],
    destination: str | Destination = "",
    *,
    port: int | None = None,
    uids: Collection[int] = (),
) -> Tunnel:
    """Listen on this host for a destination inside, and return once the way there is open.

    Args:
        make: Returns the way; called on the background thread.
        destination: A port inside or a Unix socket there, empty for the tool's.
        port: A port on 127.0.0.1, 0 for any free one; None for a Unix socket in a private folder.
        uids: Accounts that may connect to a port, beside this one and root.

    Raises:
        EngineError: The container has ended, the tool cannot be started, or the port is taken.
    """

    async def fixed() -> str:
        assert isinstance(destination, str)
        return destination

    async def begin() -> Tunnel:
        inside = make()
        tunnel = Tunnel(inside, fixed if isinstance(destination, str) else destination, uids)
        try:
            tunnel.tool_port = await inside.begin()
            await tunnel._listen(port)
        except BaseException:
            await tunnel._close()
            raise
        return tunnel

    made: Tunnel = await _there(begin)
    return made
