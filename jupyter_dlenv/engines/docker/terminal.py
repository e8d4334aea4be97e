"""A command in a running container with its input and output open, and what ends it with whoever opened it."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from docker import APIClient
from docker.errors import APIError

from ...errors import DLEnvError, EngineError, NotFound
from ...i18n import _
from ..base import Plan
from .containers import remove_container
from .engine import DockerEngine
from .failures import CANNOT_START, without_pinning
from .names import container_name
from .request import assert_safe

STDOUT = 1
HOLD = ("/bin/sh", "-c", "read -r word")
"""What a container runs that lives as long as somebody is attached to its input."""

_TIMEOUT_S = 60
_END_S = 10.0
_LOOK_S = 0.02
_CHUNK = 1 << 16
_FRAME_HEAD = struct.Struct(">BxxxL")
_MARK = "DLENV_TERMINAL"
# Docker swallows the beginning of this sequence until the next key; its own begins with ctrl-p, which shells use.
_DETACH_KEYS = "ctrl-^,ctrl-_,ctrl-^,ctrl-_"
_UPGRADE = {"Connection": "Upgrade", "Upgrade": "tcp"}

# Docker ends no command of an exec when its client goes. This one is told by the end of its input, and hangs up on all
# that carries the mark, as a terminal that is closed does.
_GUARD = f"""exec 2>/dev/null
read -r word && exit
for process in /proc/[0-9]*; do
    case "$(cat "$process/environ")" in *"{_MARK}=$0"*) kill -HUP "${{process#/proc/}}" ;; esac
done"""


class Frames:
    """Takes the stream of a command without a terminal apart: output and errors in frames of one connection."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Return each complete frame: 1 for output or 2 for errors, and its bytes."""
        self._rest += data
        found = []
        while len(self._rest) >= _FRAME_HEAD.size:
            channel, length = _FRAME_HEAD.unpack_from(self._rest)
            end = _FRAME_HEAD.size + length
            if len(self._rest) < end:
                break
            found.append((channel, self._rest[_FRAME_HEAD.size : end]))
            self._rest = self._rest[end:]
        return found


class _Connection:
    """An HTTP connection to the daemon that has become a stream of bytes in both directions."""

    def __init__(self, response: Any) -> None:
        self._response = response  # closes the socket when it is collected
        self._reader = response.raw._fp.fp
        self.socket: socket.socket = self._reader.raw._sock
        self.socket.setblocking(False)

    def early(self) -> bytes:
        """Return what came together with the answer's head, which a read of the socket would miss."""
        return bytes(self._reader.read1(_CHUNK) or b"")

    def close(self) -> None:
        self._response.close()
        self.socket.close()


def _hijack(client: APIClient, path: str, body: Mapping[str, Any]) -> _Connection:
    url = f"{client.base_url}/v{client.api_version}{path}"
    response = client.post(url, json=body, headers=_UPGRADE, stream=True, timeout=_TIMEOUT_S)
    if response.status_code >= 400:
        raise APIError(path, response=response, explanation=response.text.strip())
    return _Connection(response)


class Terminal:
    """One command in a container. Its socket never blocks; :meth:`fileno` is for select."""

    def __init__(self, engine: DockerEngine, exec_id: str, connection: _Connection, *, tty: bool) -> None:
        self._engine, self._id, self._connection = engine, exec_id, connection
        self._frames = None if tty else Frames()
        self._early = connection.early()

    def fileno(self) -> int:
        return self._connection.socket.fileno()

    def early(self) -> list[tuple[int, bytes]]:
        """Return what the command wrote before :meth:`fileno` could tell."""
        early, self._early = self._early, b""
        return self._split(early)

    def receive(self) -> list[tuple[int, bytes]] | None:
        """Return what the command wrote, each piece with 1 for output or 2 for errors; None when it closed both."""
        try:
            data = self._connection.socket.recv(_CHUNK)
        except BlockingIOError:
            return []
        except ConnectionError:
            return None
        return self._split(data) if data else None

    def _split(self, data: bytes) -> list[tuple[int, bytes]]:
        if self._frames is not None:
            return self._frames.feed(data)
        return [(STDOUT, data)] if data else []

    def send(self, data: bytes) -> int:
        """Type, and return how many bytes were taken; a command that has ended takes all."""
        try:
            return self._connection.socket.send(data)
        except BlockingIOError:
            return 0
        except ConnectionError:
            return len(data)

    def end_input(self) -> None:
        """Close the command's input."""
        with contextlib.suppress(OSError):
            self._connection.socket.shutdown(socket.SHUT_WR)

    def resize(self, rows: int, columns: int) -> None:
        """Tell the terminal's size; a command that has just ended needs none."""
        with contextlib.suppress(DLEnvError):
            self._engine.call(lambda client: client.exec_resize(self._id, rows, columns))

    def exit_code(self) -> int:
        """Return the command's exit status.

        Raises:
            NotFound: Its container is gone.
            EngineError: It closed its output and goes on.
        """
        deadline = time.monotonic() + _END_S
        while time.monotonic() < deadline:
            try:
                found = self._engine.call(lambda client: client.exec_inspect(self._id))
            except EngineError as error:
                raise NotFound(_("The container ended while its terminal was open.")) from error
            if not found["Running"] and found["ExitCode"] is not None:
                return int(found["ExitCode"])
            time.sleep(_LOOK_S)
        raise EngineError(_("The shell closed its output and goes on."))

    def close(self) -> None:
        """Close the connection; does not end the command."""
        self._connection.close()


@contextmanager
def open_terminal(
    engine: DockerEngine, container: str, argv: Sequence[str], *, tty: bool, env: Mapping[str, str]
) -> Iterator[Terminal]:
    """Run a command in a running container, as its user and in its folder, until it ends or the block is left.

    When this process is killed, what runs in the terminal is hung up on all the same.

    Raises:
        StartFailed: The command could not be started.
        EngineError: The container runs no more.
    """
    token = uuid.uuid4().hex
    guard_id = _exec(engine, container, ["/bin/sh", "-c", _GUARD, token], tty=False, env={})
    guard = engine.call(lambda client: _hijack(client, f"/exec/{guard_id}/start", {"Detach": False, "Tty": False}))
    try:
        terminal = _begin_exec(engine, container, argv, tty=tty, env={**env, _MARK: token})
        try:
            yield terminal
        finally:
            terminal.close()
    finally:
        guard.close()


def open_program(engine: DockerEngine, container: str, argv: Sequence[str]) -> Terminal:
    """Run a program in a running container, as its user; one that ends by itself when its input does.

    Raises:
        EngineError: The container runs no more.
    """
    return _begin_exec(engine, container, argv, tty=False, env={})


def _begin_exec(
    engine: DockerEngine, container: str, argv: Sequence[str], *, tty: bool, env: Mapping[str, str]
) -> Terminal:
    exec_id = _exec(engine, container, argv, tty=tty, env=env, output=True)
    body = {"Detach": False, "Tty": tty}
    connection = engine.call(lambda client: _hijack(client, f"/exec/{exec_id}/start", body))
    return Terminal(engine, exec_id, connection, tty=tty)


def _exec(
    engine: DockerEngine,
    container: str,
    argv: Sequence[str],
    *,
    tty: bool,
    env: Mapping[str, str],
    output: bool = False,
) -> str:
    def create(client: APIClient) -> str:
        answer = client.exec_create(
            container,
            list(argv),
            stdin=True,
            stdout=output,
            stderr=output,
            tty=tty,
            environment=dict(env),
            detach_keys=_DETACH_KEYS,
        )
        return str(answer["Id"])

    return engine.call(create)


@contextmanager
def held_container(engine: DockerEngine, plan: Plan) -> Iterator[str]:
    """Start the plan's container, whose spec runs :data:`HOLD`, and remove it when the block is left.

    When this process is killed, the container's input ends, with it the container, and the daemon removes it.

    Raises:
        StartFailed: It could not be started.
    """
    container, held = _begin(engine, plan)
    try:
        yield container
    finally:
        held.close()
        engine.call(lambda client: remove_container(client, container))


def _begin(engine: DockerEngine, plan: Plan) -> tuple[str, _Connection]:
    """Start a container whose input is held open, and return both."""
    try:
        return _try(engine, plan, plan.requests[0])
    except CANNOT_START as error:
        weaker = without_pinning(plan.requests[0], error.message)
        if weaker is None:
            raise
        return _try(engine, plan, weaker)


def _try(engine: DockerEngine, plan: Plan, request: Mapping[str, Any]) -> tuple[str, _Connection]:
    body = dict(request)
    assert_safe(body)
    name = container_name(plan.spec)
    with contextlib.ExitStack() as undo:
        container = engine.call(lambda client: str(client.create_container_from_config(body, name)["Id"]))
        undo.callback(engine.call, lambda client: remove_container(client, container))
        engine.refuse_rivals([container], plan.spec)
        path = f"/containers/{container}/attach?stream=1&stdin=1"
        held = undo.enter_context(contextlib.closing(engine.call(lambda client: _hijack(client, path, {}))))
        engine.call(lambda client: client.start(container))
        undo.pop_all()
    return container, held
