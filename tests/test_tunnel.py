"""Tunnels into real containers of which nothing is published: bytes, ends, many at once, and what is left."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import socket
import stat
import struct
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker_images
import pytest

from jupyter_dlenv.engines.docker.engine import DockerEngine
from jupyter_dlenv.errors import EngineError
from jupyter_dlenv.shell import channels, ways
from jupyter_dlenv.shell.channels import (
    CHUNK,
    CLOSE,
    DATA,
    END,
    GRANT,
    PORT,
    PYTHON,
    STATUS,
    WINDOW,
    Deframer,
    Link,
    frame,
)
from jupyter_dlenv.shell.tunnel import Tunnel, open_tunnel, peer_uid
from jupyter_dlenv.shell.ways import Inside, _Child, _Remote, in_container, interpreter_of, on_host

PATIENCE_S = 60
SIZE = 50 << 20

SERVICES = """
import hashlib, http.server, os, socketserver, threading

class Echo(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(b"heard " + self.rfile.read())  # reads to the end before it answers

class Silent(socketserver.StreamRequestHandler):
    def handle(self):
        while self.rfile.read(1 << 16):
            pass

class Reset(socketserver.StreamRequestHandler):
    def handle(self):
        import socket, struct
        self.rfile.readline()
        self.request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.request.close()

data = os.urandom(1 << 20) * 50

class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("X-Sum", hashlib.sha256(data).hexdigest())
        self.end_headers()
        self.wfile.write(data)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(hashlib.sha256(body).hexdigest().encode())

    def log_message(self, *words):
        pass

class Unix(socketserver.ThreadingUnixStreamServer):
    request_queue_size = 100
    daemon_threads = True

class Tcp(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 100

made = [Tcp(("127.0.0.1", 8001), Echo), Tcp(("127.0.0.1", 8002), Silent), Tcp(("127.0.0.1", 8003), Reset),
        Unix("/tmp/echo", Echo), http.server.ThreadingHTTPServer(("127.0.0.1", 8000), Page)]
for server in made:
    threading.Thread(target=server.serve_forever).start()
print("up", flush=True)
"""

pytestmark = pytest.mark.docker


@pytest.fixture(scope="module")
def container() -> Iterator[str]:
    """A container without any network, in which services listen on its loopback."""
    client = docker_images.engine()
    body = {
        "Image": docker_images.base_image(),
        "User": "1000:1000",
        "Entrypoint": ["/usr/bin/python3", "-c", SERVICES],
        "HostConfig": {"NetworkMode": "none", "Init": True, "CapDrop": ["ALL"]},
    }
    made = str(client.create_container_from_config(body)["Id"])
    try:
        client.start(made)
        deadline = time.monotonic() + PATIENCE_S
        while b"up" not in client.logs(made):
            assert time.monotonic() < deadline, client.logs(made)
            time.sleep(0.1)
        yield made
    finally:
        client.remove_container(made, force=True)


def into(container: str) -> Callable[[], Inside]:
    return lambda: in_container(DockerEngine(), container)


async def connect(tunnel: Tunnel) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if tunnel.path:
        return await asyncio.open_unix_connection(tunnel.path)
    return await asyncio.open_connection("127.0.0.1", tunnel.port)


async def ask(tunnel: Tunnel, data: bytes) -> bytes:
    """Send, say that this is all, and return the whole answer."""
    reader, writer = await connect(tunnel)
    writer.write(data)
    writer.write_eof()
    answer = await asyncio.wait_for(reader.read(), PATIENCE_S)
    await done(writer)
    return answer


async def done(writer: asyncio.StreamWriter) -> None:
    """Close a connection for good."""
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


def programs(container: str) -> list[str]:
    """Return what runs in a container beside its services."""
    found = docker_images.engine().top(container)["Processes"]
    return [line[-1] for line in found if " -I -S -c " in line[-1] or " -m http.server" in line[-1]]


async def none_left(container: str) -> None:
    for _ in range(PATIENCE_S * 10):
        if not programs(container):
            return
        await asyncio.sleep(0.1)
    pytest.fail(f"left: {programs(container)}")


@pytest.mark.parametrize(("port", "clients"), [(None, 3), (0, 1)])
async def test_clients_get_large_answers_whole_side_by_side(container: str, port: int | None, clients: int) -> None:
    tunnel = await open_tunnel(into(container), "8000", port=port)
    try:
        answers = await asyncio.gather(*(ask(tunnel, b"GET / HTTP/1.0\r\n\r\n") for _ in range(clients)))
        for answer in answers:
            head, _, body = answer.partition(b"\r\n\r\n")
            assert len(body) == SIZE
            assert hashlib.sha256(body).hexdigest().encode() in head
        assert len(programs(container)) == 1
    finally:
        await tunnel.close()
    await none_left(container)


async def test_a_large_request_arrives_whole(container: str) -> None:
    body = os.urandom(1 << 20) * 8
    tunnel = await open_tunnel(into(container), "8000")
    try:
        head = f"POST / HTTP/1.0\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        answer = await ask(tunnel, head + body)
        assert answer.endswith(hashlib.sha256(body).hexdigest().encode())
    finally:
        await tunnel.close()


async def test_half_a_connection_may_end_first(container: str) -> None:
    for destination in ("8001", "/tmp/echo"):
        tunnel = await open_tunnel(into(container), destination)
        try:
            answers = await asyncio.gather(*(ask(tunnel, b"%d" % number) for number in range(60)))
            assert answers == [b"heard %d" % number for number in range(60)]
        finally:
            await tunnel.close()


async def test_a_client_that_does_not_read_holds_up_nobody(container: str) -> None:
    tunnel = await open_tunnel(into(container), "8000")
    try:
        reader, writer = await connect(tunnel)
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        await reader.readexactly(1)
        await asyncio.sleep(0.5)
        answer = await ask(tunnel, b"GET / HTTP/1.0\r\n\r\n")
        assert len(answer.partition(b"\r\n\r\n")[2]) == SIZE
        assert len((await reader.read()).partition(b"\r\n\r\n")[2]) == SIZE
        await done(writer)
    finally:
        await tunnel.close()


async def test_a_server_that_does_not_answer_ends_with_its_client(container: str) -> None:
    tunnel = await open_tunnel(into(container), "8002")
    try:
        _reader, writer = await connect(tunnel)
        writer.write(b"hello")
        await writer.drain()
        await done(writer)
        assert await ask(tunnel, b"more") == b""
    finally:
        await tunnel.close()


async def test_refused_and_broken_connections_are_closed(container: str) -> None:
    for port, said in (("9999", b""), ("8003", b"break\n")):
        tunnel = await open_tunnel(into(container), port)
        try:
            reader, writer = await connect(tunnel)
            writer.write(said)
            with contextlib.suppress(ConnectionError):
                assert await asyncio.wait_for(reader.read(), PATIENCE_S) == b""
            await done(writer)
            assert tunnel.live
        finally:
            await tunnel.close()


async def test_the_socket_is_private_and_goes(container: str) -> None:
    tunnel = await open_tunnel(into(container), "8001")
    folder = Path(tunnel.path).parent
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    await tunnel.close()
    assert not folder.exists()


async def test_a_tool_lives_as_long_as_the_tunnel(container: str) -> None:
    tool = {"argv": [PYTHON, "-m", "http.server", "--bind", "127.0.0.1", PORT], "folder": "/usr/share"}
    tunnel = await open_tunnel(lambda: in_container(DockerEngine(), container, tool))
    try:
        assert b"doc/" in await ask(tunnel, b"GET / HTTP/1.0\r\n\r\n")
        assert tunnel.tool_port > 0
    finally:
        await tunnel.close()
    await none_left(container)


async def test_a_tool_that_fails_says_why(container: str) -> None:
    tool = {"argv": [PYTHON, "-m", "nothing_of_that_name"], "folder": "/"}
    with pytest.raises(EngineError, match="No module named nothing_of_that_name"):
        await open_tunnel(lambda: in_container(DockerEngine(), container, tool))


async def test_the_end_of_the_container_ends_the_tunnel() -> None:
    client = docker_images.engine()
    body = {"Image": docker_images.base_image(), "Entrypoint": ["/usr/bin/python3", "-c", SERVICES]}
    made = str(client.create_container_from_config({**body, "HostConfig": {"NetworkMode": "none"}})["Id"])
    try:
        client.start(made)
        tunnel = await open_tunnel(into(made), "8002")
        reader, writer = await connect(tunnel)
        await asyncio.sleep(0.5)
        await asyncio.to_thread(client.kill, made)
        with contextlib.suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), PATIENCE_S) == b""
        await done(writer)
        with contextlib.suppress(ConnectionError):
            assert await ask(tunnel, b"") == b""
        assert not tunnel.live
        await tunnel.close()
        with pytest.raises(EngineError):
            await open_tunnel(into(made), "8002")
    finally:
        client.remove_container(made, force=True)


@pytest.mark.parametrize("removed", [False, True])
async def test_a_container_s_end_is_noticed_though_nobody_connects(
    removed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ways, "_SETTLED_S", 1.0)
    client = docker_images.engine()
    body = {"Image": docker_images.base_image(), "Entrypoint": ["/usr/bin/python3", "-c", SERVICES]}
    made = str(client.create_container_from_config({**body, "HostConfig": {"NetworkMode": "none"}})["Id"])
    try:
        client.start(made)
        tunnel = await open_tunnel(into(made), "8002")
        assert await tunnel.runs()
        await asyncio.to_thread(client.kill, made)
        if removed:
            await asyncio.to_thread(client.remove_container, made, force=True)
        await within(lambda: not tunnel.live)
        assert not await tunnel.runs()
        await tunnel.close()
    finally:
        if not removed:
            client.remove_container(made, force=True)


async def test_a_program_that_was_killed_is_started_again(container: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ways, "_SETTLED_S", 0.1)
    tunnel = await open_tunnel(into(container), "8001")
    try:
        kill = "for p in /proc/[0-9]*; do grep -q dlenv $p/cmdline && kill -9 ${p#/proc/}; done"
        client = docker_images.engine()
        client.exec_start(client.exec_create(container, ["/bin/sh", "-c", kill])["Id"])
        await none_left(container)
        await asyncio.sleep(0.5)
        assert tunnel.live
        assert await ask(tunnel, b"x") == b"heard x"
    finally:
        await tunnel.close()


async def test_the_end_of_plain_processes_is_asked_for() -> None:
    ended: list[bool] = []

    async def runs() -> bool:
        return not ended

    with socket.create_server(("127.0.0.1", 0)) as server:
        tunnel = await open_tunnel(lambda: on_host(None, runs), str(server.getsockname()[1]))
        assert (await tunnel.runs(), await tunnel.check()) == (True, True)
        ended.append(True)
        assert tunnel.live  # nobody has asked
        assert (await tunnel.check(), tunnel.live) == (False, False)
        ended.clear()
        assert not await tunnel.runs()
        await tunnel.close()


async def within(happens: Callable[[], bool]) -> None:
    for _ in range(PATIENCE_S * 10):
        if happens():
            return
        await asyncio.sleep(0.1)
    pytest.fail("it did not happen")


class _Broken:
    """A program that has ended before its first word."""

    def __init__(self) -> None:
        self.ends = socket.socketpair()

    def fileno(self) -> int:
        return self.ends[0].fileno()

    def early(self) -> list[tuple[int, bytes]]:
        return []

    def receive(self) -> list[tuple[int, bytes]] | None:
        raise TimeoutError(110, "Connection timed out")

    def send(self, data: bytes) -> int:
        raise OSError(9, "Bad file descriptor")

    def close(self) -> None:
        for end in self.ends:
            end.close()


def _not_started(_code: bytes, _head: str) -> _Broken:
    raise FileNotFoundError(2, "No such file or directory", "python")


@pytest.mark.parametrize("start", [lambda _code, _head: _Broken(), _not_started], ids=["writing", "starting"])
async def test_what_breaks_at_the_beginning_is_said_in_words(start: Callable[[bytes, str], Any]) -> None:
    inside = _Remote(start, {})
    with pytest.raises(EngineError, match="closed the connection"):
        await inside.begin()
    assert not inside.live
    await inside.close()


async def test_plain_processes_are_reached_directly() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        tunnel = await open_tunnel(on_host, str(server.getsockname()[1]))
        try:
            reader, writer = await connect(tunnel)
            accepted, _address = await asyncio.to_thread(server.accept)
            with accepted:
                writer.write(b"hello")
                writer.write_eof()
                assert await asyncio.to_thread(accepted.recv, 100) == b"hello"
                assert await asyncio.to_thread(accepted.recv, 100) == b""
                accepted.sendall(b"and back")
            assert await reader.read() == b"and back"
            await done(writer)
        finally:
            await tunnel.close()


async def test_a_tool_of_plain_processes_lives_as_long_as_the_tunnel(tmp_path: Path) -> None:
    (tmp_path / "here").touch()
    tool = {"argv": [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", PORT], "folder": str(tmp_path)}
    tunnel = await open_tunnel(lambda: on_host(tool))
    assert b"here" in await ask(tunnel, b"GET / HTTP/1.0\r\n\r\n")
    await tunnel.close()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", tunnel.tool_port)


async def test_only_the_owner_s_programs_are_served_at_a_port(container: str) -> None:
    """Another account's connection is closed before anything is passed on."""
    if os.geteuid():
        pytest.skip("needs a second account")
    tunnel = await open_tunnel(into(container), "8001", port=0, uids=(4321,))
    code = f"import socket;s=socket.create_connection(('127.0.0.1',{tunnel.port}));s.sendall(b'x');s.shutdown(1);"
    code += "print(s.makefile('rb').read())"
    try:
        for uid, heard in ((4321, b"b'heard x'"), (4322, b"")):
            program = await asyncio.create_subprocess_exec(
                "/usr/bin/python3", "-c", code, user=uid, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
            )
            said, _errors = await asyncio.wait_for(program.communicate(), PATIENCE_S)
            assert said.strip() in (heard, b"b''" if uid == 4322 else heard)
    finally:
        await tunnel.close()


async def test_a_taken_port_is_named(container: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(EngineError, match=f"127.0.0.1:{port}"):
            await open_tunnel(into(container), "8001", port=port)
    await none_left(container)


# Pure -----------------------------------------------------------------------------------------------------------------


def test_frames_come_whole_however_they_are_cut_up() -> None:
    frames = [(1, DATA, b"one"), (2, END, b""), (1, DATA, b"x" * CHUNK), (3, CLOSE, b"")]
    wire = b"".join(frame(*each) for each in frames) + frame(7, GRANT, number=5)
    for size in (1, 5, 4096, len(wire)):
        taken = Deframer()
        found = [each for at in range(0, len(wire), size) for each in taken.feed(wire[at : at + size])]
        assert [(channel, kind, data) for channel, kind, _number, data in found[:-1]] == frames
        assert found[-1] == (7, GRANT, 5, b"")


def test_a_frame_that_no_end_sends_is_refused_before_it_came() -> None:
    taken = Deframer()
    assert taken.feed(frame(1, DATA, b"x" * CHUNK))
    with pytest.raises(ConnectionError):
        taken.feed(struct.pack(">IBI", 1, DATA, CHUNK + 1))


async def half_open(link: Link) -> tuple[asyncio.Task[None], asyncio.StreamWriter]:
    """Relay a connection whose client does not read, and return the work and the client's end."""
    accepted: asyncio.Queue[Any] = asyncio.Queue()
    server = await asyncio.start_server(lambda *ends: accepted.put_nowait(ends), "127.0.0.1", 0)
    _reader, client = await asyncio.open_connection(*server.sockets[0].getsockname())
    client.transport.pause_reading()  # type: ignore[attr-defined]
    work = asyncio.ensure_future(link.relay("1", *await accepted.get()))
    await asyncio.sleep(0.1)  # it has begun
    server.close()
    return work, client


@pytest.mark.parametrize(
    "frames",
    [
        [frame(1, DATA, b"x" * CHUNK)] * (WINDOW // CHUNK + 1),
        [frame(1, END), frame(1, END)],
        [frame(1, END), frame(1, DATA, b"x")],
    ],
    ids=["beyond the window", "two ends", "after the end"],
)
async def test_what_was_not_granted_ends_the_stream(frames: list[bytes]) -> None:
    async def send(_data: bytes) -> None:
        pass

    link = Link(send)
    work, client = await half_open(link)
    for each in frames[:-1]:
        link.feed(each)
    with pytest.raises(ConnectionError):
        link.feed(frames[-1])
    link.close()
    await asyncio.wait_for(work, PATIENCE_S)
    await done(client)


@pytest.mark.parametrize("said", [b"[" * 60000, b"5", b"{", b'{"port": "x"}', b"\xff"], ids=range(5))
async def test_a_status_that_is_none_ends_the_stream(said: bytes) -> None:
    async def send(_data: bytes) -> None:
        pass

    link = Link(send)
    link.status = asyncio.get_running_loop().create_future()
    with pytest.raises(ConnectionError):
        link.feed(frame(0, STATUS, said))


async def test_another_program_at_the_other_end_is_left(tmp_path: Path) -> None:
    """The end in a container is a program of the user's account, who can put another in its place."""
    size = len(Path(channels.__file__).read_bytes())
    code = f"import os,struct\nleft={size}\nwhile left: left-=len(os.read(0,left))\n"
    code += "os.write(0,struct.pack('>IBI',0,5,2)+b'{}')\nos.read(0,1)\n"
    code += "while 1: os.write(0,struct.pack('>IBI',1,1,1<<31)+b'x'*60000)\n"
    inside = _Remote(lambda _code, _head: _Child([sys.executable, "-c", code]), {})
    assert await inside.begin() == 0
    assert inside._link is not None
    assert inside._reading is not None
    await inside._link.tell({})  # from here on it writes what our program never would
    await asyncio.wait_for(inside._reading, PATIENCE_S)
    assert inside._link is None
    await inside.close()


def test_the_interpreter_of_a_container_is_known() -> None:
    assert interpreter_of(["/opt/python", "-I", "/dlenv/shim"]) == "/opt/python"
    assert interpreter_of(["/bin/sh", "-c", 'unset A; exec "$0" "$@"', "/opt/python", "x"]) == "/opt/python"


TABLE = """  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 11 1 0 100 0 0 10 0
   1: 0100007F:C350 0100007F:1F90 01 00000000:00000000 00:00000000 00000000  1234        0 12 1 0 100 0 0 10 0
   2: 0100007F:1F90 0100007F:C350 01 00000000:00000000 00:00000000 00000000     0        0 13 1 0 100 0 0 10 0
   3: 0100007F:C351 0100007F:1F90 06 00000000:00000000 00:00000000 00000000     0        0 0 3 0 100 0 0 10 0
"""


@pytest.mark.parametrize(("port", "uid"), [(50000, 1234), (50001, None), (50002, None)])
def test_whose_a_connection_is(port: int, uid: int | None) -> None:
    assert peer_uid(TABLE, port, 8080) == uid
