"""The way to where a kernel or job runs: through a program in its container, or directly where there is none.

One program serves all connections, over one stream that the engine keeps open. It is started when it is needed, and
ends when its input does, so that nothing of it is left when this process is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from ..engines.docker.engine import DockerEngine
from ..engines.docker.terminal import STDOUT, open_program
from ..errors import Conflict, DLEnvError, EngineError, NotFound
from ..i18n import _
from . import channels
from .channels import CHUNK, Link

Runs = Callable[[], Awaitable[bool]]
"""Asks an engine whether what a way leads to still runs."""

_STARTED_S = 150.0
_SETTLED_S = 5.0
_FIRST_WORDS = "import os\ns=b''\nwhile len(s)<{size}:s+=os.read(0,{size}-len(s))\nexec(compile(s,'dlenv','exec'))"


class _Program(Protocol):
    """A program's input and output; nothing of it waits."""

    def fileno(self) -> int: ...

    def early(self) -> list[tuple[int, bytes]]: ...

    def receive(self) -> list[tuple[int, bytes]] | None: ...

    def send(self, data: bytes) -> int: ...

    def close(self) -> None: ...


class _Child:
    """The same program as a child of this process, for tools of plain processes."""

    def __init__(self, argv: Sequence[str]) -> None:
        self._socket, theirs = socket.socketpair()
        self._socket.setblocking(False)
        with theirs:
            self._process = subprocess.Popen(argv, stdin=theirs.fileno(), stdout=theirs.fileno())

    def fileno(self) -> int:
        return self._socket.fileno()

    def early(self) -> list[tuple[int, bytes]]:
        return []

    def receive(self) -> list[tuple[int, bytes]] | None:
        try:
            data = self._socket.recv(CHUNK)
        except BlockingIOError:
            return []
        except ConnectionError:
            return None
        return [(STDOUT, data)] if data else None

    def send(self, data: bytes) -> int:
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0
        except ConnectionError:
            return len(data)

    def close(self) -> None:
        self._socket.close()
        self._process.wait()


class _Stream:
    """The program's two ends for a link: waits where the program cannot."""

    def __init__(self, program: _Program) -> None:
        self._program = program
        self.errors = b""

    async def read(self) -> bytes | None:
        """Return what the program wrote for the link, None at its end."""
        pieces = self._program.early()
        if not pieces:
            await _until(self._program.fileno(), asyncio.get_running_loop().add_reader)
            found = self._program.receive()
            if found is None:
                return None
            pieces = found
        self.errors = (self.errors + b"".join(data for channel, data in pieces if channel != STDOUT))[-CHUNK:]
        return b"".join(data for channel, data in pieces if channel == STDOUT)

    async def write(self, data: bytes) -> None:
        """Write all of it."""
        view = memoryview(data)
        while view:
            taken = self._program.send(bytes(view[:CHUNK]))
            view = view[taken:]
            if not taken:
                await _until(self._program.fileno(), asyncio.get_running_loop().add_writer)


async def _until(descriptor: int, watch: Callable[..., None]) -> None:
    loop = asyncio.get_running_loop()
    happened = asyncio.Event()
    watch(descriptor, happened.set)
    try:
        await happened.wait()
    finally:
        forget = loop.remove_reader if watch == loop.add_reader else loop.remove_writer
        forget(descriptor)


class Inside(Protocol):
    """A place that connections are led to."""

    async def begin(self) -> int:
        """Make sure that the way is open, and return the port of the tool that goes with it, 0 without one."""

    async def relay(self, destination: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Lead one connection there, to its end."""

    @property
    def live(self) -> bool:
        """False once it is known to have ended."""

    async def check(self) -> bool:
        """Ask whether it still runs, and start nothing there."""

    async def close(self) -> None:
        """End what was opened."""


class _Ending:
    """What runs until an engine says that it has ended, which is never taken back."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs
        self.live = True

    async def check(self) -> bool:
        with contextlib.suppress(DLEnvError):  # nobody can tell
            if not await self._runs():
                self.live = False
        return self.live


async def _for_ever() -> bool:
    return True


class _Remote(_Ending):
    """What lies at the other end of a program's stream; the program is started when it is needed, and again.

    Args:
        start: Runs Python code with an argument, and returns the program.
        tool: What else the program is told: the tool that it starts and ends.
        runs: Asks for where the program runs.
    """

    def __init__(
        self, start: Callable[[bytes, str], _Program], tool: Mapping[str, Any], runs: Runs = _for_ever
    ) -> None:
        super().__init__(runs)
        self._start, self._tool = start, tool
        self._beginning = asyncio.Lock()
        self._link: Link | None = None
        self._reading: asyncio.Task[None] | None = None
        self._settling: asyncio.Task[None] | None = None
        self._port = 0

    async def begin(self) -> int:
        await self._living()
        return self._port

    async def _living(self) -> Link:
        async with self._beginning:
            if self._link is None:
                try:
                    return await self._begin()
                except DLEnvError:
                    self.live = False
                    raise
                except OSError as error:  # of writing, to what has ended just now
                    self.live = False
                    raise EngineError(_("The container closed the connection.")) from error
            return self._link

    async def _begin(self) -> Link:
        code = Path(channels.__file__).read_bytes()
        program = await asyncio.to_thread(self._start, code, json.dumps(dict(self._tool)))
        stream = _Stream(program)
        link = self._link = Link(stream.write)
        link.status = asyncio.get_running_loop().create_future()
        self._reading = asyncio.ensure_future(self._read(program, stream, link))
        try:
            await asyncio.wait_for(stream.write(code), _STARTED_S)
            status = await asyncio.wait_for(link.status, _STARTED_S)
        except asyncio.TimeoutError:
            status = {"error": ""}
        except BaseException:
            await self._stop_reading()
            raise
        if "error" in status or self._link is not link:  # it may have ended right after its first words
            await self._stop_reading()
            said = status.get("error") or stream.errors.decode(errors="replace").strip()
            raise EngineError(said or _("The container closed the connection."))
        self._port = int(status.get("port", 0))
        return link

    async def _read(self, program: _Program, stream: _Stream, link: Link) -> None:
        try:
            while (data := await stream.read()) is not None:
                link.feed(data)
        except OSError:
            pass  # what answers is not our program any more
        finally:
            if self._link is link:
                self._link = None
                self._stop_settling()
                self._settling = asyncio.ensure_future(self._settle())
            link.close()
            await asyncio.shield(asyncio.to_thread(program.close))

    async def _settle(self) -> None:
        """After the program's end ask for its container: one that ends may still seem to run, one that restarts not."""
        await asyncio.sleep(_SETTLED_S)
        await self.check()

    def _stop_settling(self) -> None:
        if self._settling is not None:
            self._settling.cancel()
            self._settling = None

    async def relay(self, destination: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = await self._living()
        await link.relay(destination or str(self._port), reader, writer)

    async def _stop_reading(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reading
            self._reading = None

    async def close(self) -> None:
        await self._stop_reading()
        self._stop_settling()


class _Host(_Ending):
    """This host's own loopback."""

    async def begin(self) -> int:
        return 0

    async def relay(self, destination: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await channels.connect_here(destination)
        ways = [asyncio.ensure_future(_copy(*way)) for way in ((reader, back), (there, writer))]
        try:
            await asyncio.gather(*ways)
        finally:
            for way in ways:
                way.cancel()
            back.close()

    async def close(self) -> None:
        pass


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(CHUNK):
        writer.write(data)
        await writer.drain()
    writer.write_eof()


def in_container(engine: DockerEngine, container: str, tool: Mapping[str, Any] | None = None) -> Inside:
    """Return the way into a running container, without asking for it yet.

    Args:
        tool: ``argv`` and ``folder`` of a tool that runs there as long as the way is open.
    """

    def start(code: bytes, head: str) -> _Program:
        try:
            found = engine.call(lambda client: client.inspect_container(container))
            python = interpreter_of(found["Config"]["Entrypoint"])
            return open_program(engine, container, _argv(python, code, head))
        except (Conflict, NotFound) as error:
            raise EngineError(_("What was to be opened has ended: {error}").format(error=error.message)) from error

    async def runs() -> bool:
        return not (await engine.status(container)).state.ended

    return _Remote(start, tool or {}, runs)


def on_host(tool: Mapping[str, Any] | None = None, runs: Runs = _for_ever) -> Inside:
    """Return the way to what runs without a container, as :func:`in_container` does.

    Args:
        runs: Asks for the kernel or job that the way belongs to.
    """
    if not tool:
        return _Host(runs)
    return _Remote(lambda code, head: _Child(_argv(sys.executable, code, head)), tool, runs)


def _argv(python: str, code: bytes, head: str) -> list[str]:
    return [python, "-I", "-S", "-c", _FIRST_WORDS.format(size=len(code)), head]


def interpreter_of(entrypoint: Sequence[str]) -> str:
    """Return the Python in the command line of a container of ours, which a shell may stand before."""
    return entrypoint[3] if entrypoint[0] == "/bin/sh" else entrypoint[0]
