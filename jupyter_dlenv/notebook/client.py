"""The job API's client, as magics, widgets and the command line use it.

Standard library only and Python 3.8 syntax. It always speaks over a Unix socket: a container kernel's own
``api.sock``, the server's socket beside a kernel on the host, or one that this process serves itself when there is no
server at all.
"""

import http.client
import json
import os
import select
import socket
from typing import Any, Dict, Iterator, NamedTuple, Optional, Tuple
from urllib.parse import quote, urlencode

from ..errors import DLEnvError, EngineUnavailable, from_json
from ..i18n import _

SOCKET_VARIABLE = "DLENV_API"
_PREFIX = "/dlenv/api/v1"
_CHUNK = 1 << 20
_STEP_MS = 200


class Frame(NamedTuple):
    """A piece of a log; ``job`` is set on the last one of a followed log, of a build it is what was built.

    Attributes:
        attempt: Which attempt of the job runs, 0 when nobody says.
    """

    data: bytes
    cursor: str
    open_lines: Dict[str, str]
    state: str
    job: Optional[Dict[str, Any]]
    message: str = ""
    attempt: int = 0


class _PatientSocket(socket.socket):
    """Waits in short steps: an interrupt that the system hands to another thread ends no wait by itself."""

    def recv_into(self, *args: Any, **options: Any) -> int:
        waiting = select.poll()
        waiting.register(self, select.POLLIN)
        while not waiting.poll(_STEP_MS):
            pass
        return super().recv_into(*args, **options)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        self.sock = _PatientSocket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.sock.connect(self._path)
        except OSError as error:
            self.sock.close()
            raise _no_answer(error) from error


class Client:
    """Calls the job API.

    Args:
        path: The Unix socket.
    """

    def __init__(self, path: str) -> None:
        self._path = path

    def call(self, method: str, path: str, body: Any = None, query: Optional[Dict[str, str]] = None) -> Any:
        """Return the JSON data of an answer.

        Raises:
            DLEnvError: What the service refused, as it said it.
        """
        connection = _UnixConnection(self._path)
        try:
            response = self._request(connection, method, path, body, query)
            text = response.read()
            return json.loads(text) if text else None
        except (OSError, http.client.HTTPException) as error:
            raise _no_answer(error) from error
        finally:
            connection.close()

    def follow(self, job_id: str, cursor: str = "", follow: bool = True, tail: Optional[int] = None) -> Iterator[Frame]:
        """Yield the frames of a job's log from a cursor on, with ``follow`` until the job has ended.

        Raises:
            EngineUnavailable: The service went away before that; the last frame's cursor leads on.
        """
        job: Optional[Dict[str, Any]] = None
        query = {"cursor": cursor, "follow": "1" if follow else "0"}
        if tail is not None:
            query["tail"] = str(tail)
        for head, data in self._frames("GET", f"/jobs/{quote(job_id, safe='')}/log", None, query):
            state, message = head["state"], head.get("message", "")
            job, attempt = head.get("job"), head.get("attempt") or 0
            yield Frame(data, head["cursor"], head["open_lines"], state, job, message, attempt)
        if follow and job is None:
            raise _broke_off()

    def build(self, body: Dict[str, Any]) -> Iterator[Frame]:
        """Yield the frames of a build to its end; to leave early ends the build.

        Raises:
            DLEnvError: It was refused, or failed.
        """
        for head, data in self._frames("POST", "/builds", body):
            yield Frame(data, "", head["open_lines"], head["state"], head.get("build"))
            if "error" in head:
                raise from_json(head["error"])
            if "build" in head:
                return
        raise EngineUnavailable(_("The build's log broke off."), hint="jupyter dlenv doctor")

    def _frames(
        self, method: str, path: str, body: Any, query: Optional[Dict[str, str]] = None
    ) -> Iterator[Tuple[Dict[str, Any], bytes]]:
        connection = _UnixConnection(self._path)
        try:
            response = self._request(connection, method, path, body, query)
            found = _next_frame(response)
            while found is not None:
                yield found
                found = _next_frame(response)
        finally:
            connection.close()

    def _request(
        self, connection: _UnixConnection, method: str, path: str, body: Any, query: Optional[Dict[str, str]]
    ) -> http.client.HTTPResponse:
        text = json.dumps(body).encode() if body is not None else None
        target = f"{_PREFIX}{path}" + (f"?{urlencode(query)}" if query else "")
        headers = {"Content-Type": "application/json"} if text else {}
        try:
            connection.request(method, target, text, headers)
            response = connection.getresponse()
            if response.status >= 400:
                raise _failure(response)
            return response
        except (OSError, http.client.HTTPException) as error:
            raise _no_answer(error) from error


def _no_answer(error: Exception) -> EngineUnavailable:
    return EngineUnavailable(
        _("The job service of this kernel does not answer ({error}).").format(error=error),
        hint=_("The process that started the kernel may be gone: restart the kernel."),
    )


def _broke_off() -> EngineUnavailable:
    return EngineUnavailable(_("The log stream broke off."), hint="%dlattach JOB")


def _next_frame(response: http.client.HTTPResponse) -> Optional[Tuple[Dict[str, Any], bytes]]:
    """Return a stream's next frame, None where it ends between two."""
    try:
        line = response.readline()
        if not line:
            return None
        head = json.loads(line)
        return head, _exactly(response, head["bytes"])
    except (OSError, http.client.HTTPException, ValueError) as error:  # cut anywhere, within the line too
        raise _broke_off() from error


def _exactly(response: http.client.HTTPResponse, count: int) -> bytes:
    parts = []
    while count:
        piece = response.read(min(count, _CHUNK))
        if not piece:
            raise _broke_off()
        parts.append(piece)
        count -= len(piece)
    return b"".join(parts)


def _failure(response: http.client.HTTPResponse) -> DLEnvError:
    text = response.read()
    try:
        return from_json(json.loads(text))
    except ValueError:
        return DLEnvError(f"HTTP {response.status}: {text[:200]!r}")


def find_client() -> Client:
    """Return a client for wherever this code runs."""
    path = os.environ.get(SOCKET_VARIABLE) or _beside_server() or _embedded()
    return Client(path)


def _beside_server() -> str:
    """Return the socket of the server that started this kernel, empty when there is none."""
    parent = os.environ.get("JPY_PARENT_PID", "")
    if not parent.isdigit():
        return ""
    try:
        from ..paths import server_socket
    except ImportError:
        return ""
    path = str(server_socket(int(parent)))
    return path if os.path.exists(path) else ""


_EMBEDDED: Dict[str, Any] = {}


def _embedded() -> str:
    """Serve the job API in this process, once, and return its socket."""
    if "path" not in _EMBEDDED:
        from .embedded import serve

        _EMBEDDED["path"] = serve()
    return str(_EMBEDDED["path"])
