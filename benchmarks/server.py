"""A real Jupyter server with our extension, as a process whose memory can be told."""

from __future__ import annotations

import http.client
import json
import os
import re
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

_PATIENCE_S = 60
_API = "/dlenv/api/v1"
_RESET_PEAK = "5"


class Server:
    """``jupyter server`` on the loopback.

    Args:
        folder: Its notebook folder.

    Attributes:
        pid: Its process.
    """

    def __init__(self, folder: Path, port: int, token: str, pid: int) -> None:
        self._folder, self._port, self._token = folder, port, token
        self.pid = pid
        self._status, self._clear = Path(f"/proc/{pid}/status"), Path(f"/proc/{pid}/clear_refs")

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self._port}"

    @property
    def headers(self) -> dict[str, str]:
        """What every request to it carries."""
        return {"Authorization": f"token {self._token}", "Content-Type": "application/json"}

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Return the JSON data of an answer, None of an empty one.

        Raises:
            RuntimeError: It was refused.
        """
        with closing(self._connect()) as connection:
            text = self._ask(connection, method, path, body).read()
            return json.loads(text) if text else None

    def submit(self, request: Mapping[str, object]) -> str:
        """Start a job and return its id."""
        with closing(self._connect()) as connection:
            response = self._ask(connection, "POST", f"{_API}/jobs", {"cwd": str(self._folder), **request})
            return str(json.loads(response.read())["id"])

    def follow(self, job_id: str) -> Iterator[bytes]:
        """Yield a job's log in pieces until the job has ended.

        Raises:
            RuntimeError: It did not succeed.
        """
        job: dict[str, Any] = {}
        with closing(self._connect()) as connection:
            response = self._ask(connection, "GET", f"{_API}/jobs/{job_id}/log?follow=1")
            while head := response.readline():
                frame = json.loads(head)
                yield response.read(frame["bytes"])
                job = frame.get("job", job)
        if job.get("state") != "SUCCEEDED":
            raise RuntimeError(f"job {job_id}: {job}")

    def memory_mib(self) -> float:
        """Return the resident memory, and let the peak begin anew."""
        self._clear.write_text(_RESET_PEAK)
        return self._memory("VmRSS")

    def peak_mib(self) -> float:
        """Return the largest resident memory since :meth:`memory_mib`."""
        return self._memory("VmHWM")

    def share_mib(self) -> float:
        """Return the memory that is its own, with its share of what it has in common with others."""
        found = re.search(r"^Pss:\s+(\d+) kB$", Path(f"/proc/{self.pid}/smaps_rollup").read_text(), re.MULTILINE)
        assert found is not None
        return int(found.group(1)) / 1024

    def answers(self) -> bool:
        """True once it serves."""
        try:
            with closing(self._connect()) as connection:
                self._ask(connection, "GET", "/api/status").read()
            return True
        except ConnectionRefusedError:
            return False

    def _connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self._port, timeout=_PATIENCE_S)

    def _ask(
        self, connection: http.client.HTTPConnection, method: str, path: str, body: Any = None
    ) -> http.client.HTTPResponse:
        connection.request(method, path, json.dumps(body) if body is not None else None, self.headers)
        response = connection.getresponse()
        if response.status >= 400:
            raise RuntimeError(f"{method} {path}: {response.status} {response.read()!r}")
        return response

    def _memory(self, field: str) -> float:
        found = re.search(rf"^{field}:\s+(\d+) kB$", self._status.read_text(), re.MULTILINE)
        assert found is not None
        return int(found.group(1)) / 1024


@contextmanager
def running_server(folder: Path, *extensions: str) -> Iterator[Server]:
    """Start a server, wait until it answers, and stop it afterwards.

    Args:
        extensions: Modules of this package that it loads beside ours.
    """
    port, token = _free_port(), secrets.token_hex(16)
    options = {
        "ServerApp.root_dir": str(folder),
        "ServerApp.ip": "127.0.0.1",
        "ServerApp.port": port,
        "ServerApp.port_retries": 0,
        "ServerApp.allow_root": True,
        "ServerApp.open_browser": False,
        "ServerApp.jpserver_extensions": {"jupyter_dlenv": True, **dict.fromkeys(extensions, True)},
        "IdentityProvider.token": token,
    }
    argv = [sys.executable, "-m", "jupyter", "server", *(f"--{key}={value}" for key, value in options.items())]
    log = folder.parent / "server.log"
    with open(log, "wb") as output:
        # With the checkout on its path, where this package lies.
        env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])} if extensions else None
        process = subprocess.Popen(argv, cwd=folder, env=env, stdout=output, stderr=output)
    try:
        server = Server(folder, port, token, process.pid)
        _wait(server, process, log)
        yield server
    finally:
        process.terminate()
        process.wait(_PATIENCE_S)


def _wait(server: Server, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not server.answers():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"The Jupyter server did not start:\n{log.read_text()}")
        time.sleep(0.1)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
