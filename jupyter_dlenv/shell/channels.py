"""Many connections over one stream of bytes, as both of its ends speak it; and the end that runs in a container.

Standard library only and Python 3.6 syntax: the container's end is this file's own text, which an interpreter of the
image is given as its program.
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
from typing import Any, Awaitable, Callable, Dict, List, Optional, Tuple

OPEN, DATA, END, CLOSE, GRANT, STATUS = range(6)
"""What a frame says: connect; bytes; no more bytes; gone; so many bytes more; how the container's end began."""

PORT, PYTHON = "{port}", "{python}"
"""Words of a tool's command line that stand for a free port, and for the interpreter that reads this."""

CHUNK = 1 << 16
WINDOW = 8 * CHUNK
"""How many bytes of one connection may be under way that the other end has not handed on yet."""

_HEAD = struct.Struct(">IBI")
_START_S = 120.0
_LOOK_S = 0.05
_KILL_S = 3.0
_LAST_BYTES = 4000

Connect = Callable[[str], Awaitable[Tuple[asyncio.StreamReader, asyncio.StreamWriter]]]
Send = Callable[[bytes], Awaitable[None]]


def frame(channel: int, kind: int, payload: bytes = b"", number: int = 0) -> bytes:
    """Return one frame; only a GRANT carries a number in place of bytes."""
    return _HEAD.pack(channel, kind, number if kind == GRANT else len(payload)) + payload


class Deframer:
    """Takes a stream apart into its frames, however it was cut; none holds more than a :data:`CHUNK`."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> List[Tuple[int, int, int, bytes]]:
        """Return each complete frame: channel, kind, number, bytes.

        Raises:
            ConnectionError: The other end says what no end says; it may be a stranger's program.
        """
        self._rest += data
        found, at = [], 0
        while len(self._rest) - at >= _HEAD.size:
            channel, kind, number = _HEAD.unpack_from(self._rest, at)
            size = 0 if kind == GRANT else number
            if size > CHUNK:
                raise ConnectionError(f"a frame of {size} bytes")
            end = at + _HEAD.size + size
            if len(self._rest) < end:
                break
            found.append((channel, kind, number, bytes(self._rest[at + _HEAD.size : end])))
            at = end
        del self._rest[:at]
        return found


class _Channel:
    """One connection: what came for it, how much it may still send, and who works on it."""

    def __init__(self) -> None:
        self.came = asyncio.Queue()  # type: asyncio.Queue[bytes]
        self.waiting, self.ended = 0, False
        self.credit, self.more = WINDOW, asyncio.Event()
        self.gone = False
        self.tasks = []  # type: List[asyncio.Future[None]]

    def take(self, data: bytes) -> None:
        """Take bytes that came, none for their end."""
        self.waiting += len(data)
        if self.ended or self.waiting > WINDOW:
            raise ConnectionError("more than was granted")
        self.ended = not data
        self.came.put_nowait(data)

    def grant(self, number: int) -> None:
        self.credit += number
        self.more.set()

    def close(self) -> None:
        self.gone = True
        for task in self.tasks:
            task.cancel()


class Link:
    """One end of the stream.

    Args:
        send: Writes one frame to the other end.
        connect: Opens what the other end asks for; None where only this end asks.
    """

    def __init__(self, send: Send, connect: Optional[Connect] = None) -> None:
        self._send_now, self._connect = send, connect
        self._sending = asyncio.Lock()
        self._deframer = Deframer()
        self._channels = {}  # type: Dict[int, _Channel]
        self._tasks = set()  # type: set[asyncio.Future[None]]
        self._last = 0
        self.status = None  # type: Optional[asyncio.Future[Dict[str, Any]]]

    async def _send(self, data: bytes) -> None:
        async with self._sending:
            await self._send_now(data)

    def feed(self, data: bytes) -> None:
        """Take what came from the other end; never waits, so neither end can wait for the other.

        Raises:
            ConnectionError: It is nothing that this program's other end sends; the stream is of no more use.
        """
        for channel, kind, number, payload in self._deframer.feed(data):
            self._take(channel, kind, number, payload)

    def _take(self, number: int, kind: int, count: int, payload: bytes) -> None:
        if kind == STATUS:
            if self.status is not None and not self.status.done():
                self.status.set_result(_status_in(payload))
        elif kind == OPEN:
            if self._connect is not None:
                self._channels[number] = _Channel()
                self._begin(self._serve(number, payload.decode()))
        elif number in self._channels:
            channel = self._channels[number]
            if kind in (DATA, END):
                channel.take(payload)
            elif kind == GRANT:
                channel.grant(count)
            elif kind == CLOSE:
                channel.close()

    def _begin(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def tell(self, status: Dict[str, Any]) -> None:
        """Tell the other end how this one began."""
        await self._send(frame(0, STATUS, json.dumps(status).encode()))

    async def relay(self, destination: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Have the other end connect to a destination, and pass bytes both ways until both are done."""
        self._last += 1
        number = self._last
        self._channels[number] = _Channel()
        await self._send(frame(number, OPEN, destination.encode()))
        await self._pass(number, reader, writer)

    async def _serve(self, number: int, destination: str) -> None:
        assert self._connect is not None
        try:
            reader, writer = await self._connect(destination)
        except (OSError, ValueError):
            self._channels.pop(number, None)
            await self._send(frame(number, CLOSE))
            return
        await self._pass(number, reader, writer)

    async def _pass(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        channel = self._channels[number]
        work = (self._inward(number, channel, writer), self._outward(number, channel, reader))
        channel.tasks = [asyncio.ensure_future(self._guarded(number, channel, way)) for way in work]
        if channel.gone:
            channel.close()
        try:
            await asyncio.wait(channel.tasks)
        finally:
            for task in channel.tasks:
                task.cancel()
            self._channels.pop(number, None)
            if channel.gone:
                writer.transport.abort()
            else:
                writer.close()

    async def _guarded(self, number: int, channel: _Channel, way: Awaitable[None]) -> None:
        """Go one way to its end; a connection that breaks takes the other way with it, and tells the other end."""
        try:
            await way
        except OSError:
            channel.gone = True
            with contextlib.suppress(OSError):  # or the stream itself is gone, and with it every connection
                await self._send(frame(number, CLOSE))
            channel.close()

    async def _inward(self, number: int, channel: _Channel, writer: asyncio.StreamWriter) -> None:
        """Hand on what comes."""
        while True:
            data = await channel.came.get()
            if not data:
                writer.write_eof()
                return
            writer.write(data)
            await writer.drain()
            channel.waiting -= len(data)
            await self._send(frame(number, GRANT, number=len(data)))

    async def _outward(self, number: int, channel: _Channel, reader: asyncio.StreamReader) -> None:
        """Send what the connection says, never more than the other end can take."""
        while True:
            while not channel.credit:
                channel.more.clear()
                await channel.more.wait()
            data = await reader.read(min(channel.credit, CHUNK))
            if not data:
                await self._send(frame(number, END))
                return
            channel.credit -= len(data)
            await self._send(frame(number, DATA, data))

    def close(self) -> None:
        """End every connection."""
        for channel in list(self._channels.values()):
            channel.close()
        if self.status is not None and not self.status.done():
            self.status.set_result({"error": ""})


def _status_in(payload: bytes) -> Dict[str, Any]:
    try:
        status = json.loads(payload.decode())
    except (ValueError, RecursionError):
        status = None
    if not isinstance(status, dict) or type(status.get("port", 0)) is not int:
        raise ConnectionError("no status")
    return {**status, "error": str(status["error"])} if "error" in status else status


async def connect_here(destination: str) -> Tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to a port of this network's loopback, or to a Unix socket where the destination is a path."""
    if destination.startswith("/"):
        return await asyncio.open_unix_connection(destination)
    return await asyncio.open_connection("127.0.0.1", int(destination))


# The container's end --------------------------------------------------------------------------------------------------


class Tool:
    """An HTTP tool that lives as long as the stream.

    Args:
        argv: What to run.
        folder: Where to run it, if that is a folder.
    """

    def __init__(self, argv: List[str], folder: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  # as long as the tool writes to it
        env = {key: value for key, value in os.environ.items() if value or not key.startswith("PYTHON")}
        known = {PORT: str(self.port), PYTHON: sys.executable}
        words = [known.get(word, word) for word in argv]
        self._process = subprocess.Popen(
            words,
            cwd=folder if os.path.isdir(folder) else None,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=self._said,
            stderr=self._said,
            start_new_session=True,
        )

    async def ready(self) -> Dict[str, Any]:
        """Return its port once it listens, or its last words."""
        waited = 0.0
        while self._process.poll() is None and waited < _START_S:
            try:
                _reader, writer = await connect_here(str(self.port))
            except OSError:
                await asyncio.sleep(_LOOK_S)
                waited += _LOOK_S
                continue
            writer.close()
            return {"port": self.port}
        self._said.seek(max(0, self._said.seek(0, os.SEEK_END) - _LAST_BYTES))
        return {"error": self._said.read().decode("utf-8", "replace").strip() or f"exit code {self._process.poll()}"}

    def end(self) -> None:
        """End it with all that it started."""
        for signum in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self._process.pid, signum)
                self._process.wait(_KILL_S)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue


async def _standard() -> Tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Return standard input and output, which an engine gives as pipes and a parent on the same host as one socket."""
    if stat.S_ISSOCK(os.fstat(0).st_mode):
        both = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, fileno=os.dup(0))
        return await asyncio.open_connection(sock=both)
    loop = asyncio.get_event_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(0, "rb", 0))
    flow = asyncio.streams.FlowControlMixin
    transport, protocol = await loop.connect_write_pipe(flow, os.fdopen(1, "wb", 0))
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)


async def _serve(head: Dict[str, Any]) -> None:
    reader, writer = await _standard()

    async def send(data: bytes) -> None:
        writer.write(data)
        await writer.drain()

    link = Link(send, connect_here)
    tool = Tool(head["argv"], head["folder"]) if head.get("argv") else None
    report = asyncio.ensure_future(_report(link, tool))
    try:
        while True:
            data = await reader.read(CHUNK)
            if not data:
                break
            link.feed(data)
    except ConnectionError:
        pass  # whoever opened the stream is gone
    finally:
        report.cancel()
        if tool is not None:
            tool.end()


async def _report(link: Link, tool: Optional[Tool]) -> None:
    await link.tell(await tool.ready() if tool is not None else {})


def main(head: Dict[str, Any]) -> None:
    """Serve standard input and output until the input ends."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        loop.run_until_complete(_serve(head))
    except OSError as error:
        sys.stderr.write(f"{error}\n")
        sys.stderr.flush()
    finally:
        os._exit(0)  # at once: what is left are connections that nobody reads


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
