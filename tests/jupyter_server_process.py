"""A real Jupyter server of one's own, as a process, and the few calls that tests make to it."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jupyter_client.session import Session
from tornado.httpclient import HTTPRequest
from tornado.websocket import websocket_connect

PATIENCE_S = 90


@dataclass(frozen=True)
class Reply:
    """What the server answered."""

    status: int
    body: bytes

    def json(self) -> Any:
        """Return the body's data."""
        return json.loads(self.body)


class ServerProcess:
    """``jupyter server`` (or another application of its kind) with a token, on the loopback.

    Args:
        root: Its notebook folder.
        log: Where it writes what it says.
        app: ``server`` or ``lab``.
    """

    def __init__(self, root: Path, log: Path, *, app: str = "server", env: dict[str, str] | None = None) -> None:
        self.root, self.log, self.token, self.port = root, log, secrets.token_hex(16), _free_port()
        options = [
            "--allow-root",
            "--no-browser",
            "--ip=127.0.0.1",
            f"--port={self.port}",
            "--ServerApp.port_retries=0",
            f"--ServerApp.root_dir={root}",
            f"--IdentityProvider.token={self.token}",
            "--ServerApp.allow_unauthenticated_access=False",
            "--ServerApp.jpserver_extensions={'jupyter_dlenv': True}",
        ]
        command = [sys.executable, "-m", "jupyter", app, *options]
        with open(log, "ab") as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, **(env or {})})

    @property
    def url(self) -> str:
        """The server's address."""
        return f"http://127.0.0.1:{self.port}"

    def wait(self) -> None:
        """Wait until it answers."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            try:
                if self.call("GET", "/api/status").status == 200:
                    return
            except urllib.error.URLError:
                time.sleep(0.1)
            assert self.process.poll() is None, self.log.read_text()
        raise AssertionError(self.log.read_text())

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        token: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> Reply:
        """Ask the server; an empty token asks as nobody."""
        token = self.token if token is None else token
        sent = {"Content-Type": "application/json", **({"Authorization": f"token {token}"} if token else {})}
        data = body if isinstance(body, bytes) else json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(self.url + path, data, {**sent, **(headers or {})}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_S) as response:
                return Reply(response.status, response.read())
        except urllib.error.HTTPError as error:
            return Reply(error.code, error.read())

    def api(self, method: str, path: str, body: Any = None) -> Reply:
        """Ask our API."""
        return self.call(method, f"/dlenv/api/v1{path}", body)

    def execute(self, kernel_name: str, code: str, *, keep: bool = False) -> str:
        """Run code in a kernel that this server starts, over its WebSocket, and return what it printed."""
        reply = self.call("POST", "/api/kernels", {"name": kernel_name, "path": ""})
        assert reply.status == 201, reply.body
        kernel_id = reply.json()["id"]
        try:
            return asyncio.run(self.converse(kernel_id, code))
        finally:
            if not keep:
                self.call("DELETE", f"/api/kernels/{kernel_id}")

    async def converse(self, kernel_id: str, code: str, *, after: Callable[[], None] | None = None) -> str:
        """Run code in a running kernel and return what it printed; ``after`` is called a second after it began."""
        address = f"{self.url.replace('http', 'ws', 1)}/api/kernels/{kernel_id}/channels"
        request = HTTPRequest(address, headers={"Authorization": f"token {self.token}"})
        channel = await websocket_connect(request)
        session = Session(key=b"unused")
        message = session.msg(
            "execute_request", {"code": code, "silent": False, "store_history": False, "allow_stdin": True}
        )
        await channel.write_message(json.dumps({**message, "channel": "shell"}, default=str))
        if after is not None:
            await asyncio.sleep(1)
            await asyncio.to_thread(after)
        text = ""
        while True:
            received = await channel.read_message()
            assert isinstance(received, str), text
            answer = json.loads(received)
            if answer["parent_header"].get("msg_id") != message["header"]["msg_id"]:
                continue
            if answer["msg_type"] == "stream":
                text += answer["content"]["text"]
            elif answer["msg_type"] == "error":
                text += "\n".join(answer["content"]["traceback"])
                if answer["content"]["ename"] == "KernelDied":
                    channel.close()
                    return text
            elif answer["msg_type"] == "status" and answer["content"]["execution_state"] == "idle":
                channel.close()
                return text

    def stop(self) -> None:
        """End it as a person would, and wait."""
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextmanager
def denying_server(folder: Path, allowed: str) -> Iterator[ServerProcess]:
    """Yield a server whose authorizer allows what an expression about ``resource`` says."""
    (folder / "denying.py").write_text(
        "from jupyter_server.auth import Authorizer\n"
        "class Denying(Authorizer):\n"
        "    def is_authorized(self, handler, user, action, resource):\n"
        f"        return {allowed}\n"
    )
    config = folder / "config"
    config.mkdir()
    (config / "jupyter_server_config.py").write_text("c.ServerApp.authorizer_class = 'denying.Denying'\n")
    env = {"PYTHONPATH": str(folder), "JUPYTER_CONFIG_DIR": str(config)}
    process = ServerProcess(folder, folder / "log", env=env)
    try:
        process.wait()
        yield process
    finally:
        process.stop()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
