"""A Unix socket in front of Docker's own that counts the requests that pass."""

from __future__ import annotations

import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_USUAL = "unix:///var/run/docker.sock"
_REQUEST = b" HTTP/1.1\r\n"
_PIECE = 1 << 16


class Counter:
    """Hands everything on, both ways.

    Attributes:
        requests: How many began since the last time that this was set to 0.
    """

    def __init__(self, path: Path, behind: str) -> None:
        self.requests = 0
        self._behind = behind
        self._lock = threading.Lock()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(64)
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take no more connections; those that are open end with their two sides."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                asking, _address = self._listener.accept()
            except OSError:
                return  # closed
            answering = socket.socket(socket.AF_UNIX)
            answering.connect(self._behind)
            for pair in ((asking, answering, True), (answering, asking, False)):
                threading.Thread(target=self._hand_on, args=pair, daemon=True).start()

    def _hand_on(self, source: socket.socket, target: socket.socket, counts: bool) -> None:
        before = b""
        try:
            while piece := source.recv(_PIECE):
                if counts:
                    # A request line may be cut by the end of a piece.
                    seen, before = before + piece, piece[-len(_REQUEST) + 1 :]
                    with self._lock:
                        self.requests += seen.count(_REQUEST)
                target.sendall(piece)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the other side has gone


@contextmanager
def counted_docker() -> Iterator[Counter]:
    """Send what this process and those that it starts ask of Docker through a counter.

    Raises:
        RuntimeError: Docker is not reached by a Unix socket.
    """
    address = os.environ.get("DOCKER_HOST")
    if not (address or _USUAL).startswith("unix://"):
        raise RuntimeError(f"requests to {address} cannot be counted: it is no Unix socket")
    with tempfile.TemporaryDirectory(prefix="dlcount-") as folder:
        path = Path(folder, "docker.sock")
        counter = Counter(path, (address or _USUAL).removeprefix("unix://"))
        os.environ["DOCKER_HOST"] = f"unix://{path}"
        try:
            yield counter
        finally:
            if address is None:
                del os.environ["DOCKER_HOST"]
            else:
                os.environ["DOCKER_HOST"] = address
            counter.close()
