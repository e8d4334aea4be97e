"""Kernels through a Jupyter server, started as JupyterLab does it: a request, then a WebSocket."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from jupyter_client.session import Session
from tornado.httpclient import AsyncHTTPClient, HTTPRequest
from tornado.websocket import websocket_connect

from .server import Server

T = TypeVar("T")

PATIENCE_S = 300
_MOST = 256


class Remote:
    """Starts and ends kernels of one server.

    Args:
        loop: Runs the requests; it stands still between them.
    """

    def __init__(self, server: Server, loop: asyncio.AbstractEventLoop) -> None:
        self._server, self._loop = server, loop
        self._http = self._run(self._client())

    def opened(self, name: str) -> float:
        """Start a kernel, wait for its first reply and end it; return the seconds until the reply."""
        seconds, kernels = self.crowd([name])
        self.end(kernels)
        return seconds

    def crowd(self, names: Sequence[str]) -> tuple[float, list[str]]:
        """Start kernels all at once; return the seconds until the last one's first reply, and their ids."""
        begin = time.perf_counter()
        kernels = self._run(self._gather([self._open(name) for name in names]))
        return time.perf_counter() - begin, kernels

    def end(self, kernels: Sequence[str]) -> None:
        """End kernels and wait until they are gone."""
        self._run(self._gather([self._fetch("DELETE", f"/api/kernels/{kernel}") for kernel in kernels]))

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._loop.run_until_complete(work)

    @staticmethod
    async def _client() -> AsyncHTTPClient:
        return AsyncHTTPClient(force_instance=True, max_clients=_MOST)

    @staticmethod
    async def _gather(work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
        return list(await asyncio.gather(*work))

    async def _open(self, name: str) -> str:
        kernel = str((await self._fetch("POST", "/api/kernels", {"name": name, "path": ""}))["id"])
        url = f"ws://{self._server.address}/api/kernels/{kernel}/channels"
        socket = await websocket_connect(HTTPRequest(url, headers=self._server.headers, request_timeout=PATIENCE_S))
        request = Session().msg("kernel_info_request")
        await socket.write_message(json.dumps({**request, "channel": "shell"}, default=str))
        while True:
            text = await asyncio.wait_for(socket.read_message(), PATIENCE_S)
            if text is None:
                raise RuntimeError(f"kernel {kernel} of {name} closed its WebSocket")
            message = json.loads(text)
            if message["parent_header"].get("msg_id") == request["header"]["msg_id"] and message["channel"] == "shell":
                socket.close()
                return kernel

    async def _fetch(self, method: str, path: str, body: Any = None) -> Any:
        text = json.dumps(body) if body is not None else None
        url = f"http://{self._server.address}{path}"
        request = HTTPRequest(url, method, self._server.headers, text, request_timeout=PATIENCE_S)
        answer = (await self._http.fetch(request)).body
        return json.loads(answer) if answer else None
