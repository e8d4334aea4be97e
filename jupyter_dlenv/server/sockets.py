"""Unix sockets that serve the job API: who can open one *is* its principal, which no request can change.

They run on a thread of their own, so a busy notebook client or a blocked server loop never holds up a job's log.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

from tornado.httpserver import HTTPServer
from tornado.iostream import StreamClosedError
from tornado.netutil import bind_unix_socket
from tornado.web import Application, RequestHandler

from ..errors import DLEnvError
from ..jobs.principal import Principal
from ..settings import DLEnv
from ..spec import Identity
from .api import BODY_LIMIT, LOG_TYPE, ROUTES, Answer, Api, Call, Frames, Function, frame_bytes, parse_body, status_of

T = TypeVar("T")
_MODE = 0o600


class Listener:
    """A socket that is being served; :meth:`close` ends it and removes its file."""

    def __init__(self, path: Path, server: HTTPServer) -> None:
        self.path = path
        self._server = server

    def close(self) -> None:
        """Stop listening; running answers are cut."""
        _on_thread(self._close)
        self.path.unlink(missing_ok=True)

    async def _close(self) -> None:
        self._server.stop()
        await self._server.close_all_connections()


def serve_jobs(path: Path, principal: Principal, settings: DLEnv, owner: Identity | None) -> Listener:
    """Listen at a path for one principal.

    Args:
        owner: Who may connect when this process is root; otherwise only this user may.
    """
    path.unlink(missing_ok=True)

    async def listen() -> HTTPServer:
        server = HTTPServer(_application(principal, settings), max_body_size=BODY_LIMIT)
        server.add_socket(bind_unix_socket(str(path), mode=_MODE))
        return server

    server = _on_thread(listen)
    if owner is not None and os.geteuid() == 0:
        os.chown(path, owner.uid, owner.gid)
    return Listener(path, server)


def _application(principal: Principal, settings: DLEnv) -> Application:
    api = Api(settings)
    shared = {"api": api, "principal": principal}
    rows = [
        (f"/dlenv/api/v1{route.path}", _SocketHandler, {**shared, "methods": route.methods_for(principal)})
        for route in ROUTES
    ]
    return Application(rows, log_function=lambda handler: None)


class _SocketHandler(RequestHandler):
    """Serves one row of the table; never a JupyterHandler, whose user comes from the request."""

    def initialize(self, api: Api, principal: Principal, methods: dict[str, Function]) -> None:
        self._api, self._principal, self._functions = api, principal, methods

    async def _serve(self, **parts: str) -> None:
        function = self._functions.get(self.request.method or "")
        if function is None:
            self.set_status(405)
            return
        try:
            body = parse_body(self.request.body)
            query = {key: self.get_query_argument(key) for key in self.request.query_arguments}
            answer = await function(self._api, Call(self._principal, parts, query, body))
        except DLEnvError as error:
            answer = Answer(error.to_json(), status_of(error))
        await write_answer(self, answer)

    get = post = put = delete = _serve


async def write_answer(handler: RequestHandler, answer: Answer | Frames) -> None:
    """Write a function's answer; a stream ends early when its reader is gone."""
    if isinstance(answer, Answer):
        handler.set_status(answer.status)
        if answer.data is not None:
            handler.set_header("Content-Type", "application/json")
            handler.finish(_dump(answer.data))
        return
    handler.set_header("Content-Type", LOG_TYPE)
    try:
        async for frame in answer:
            handler.write(frame_bytes(frame))
            await handler.flush()
    except StreamClosedError:
        return


def _dump(data: Any) -> bytes:
    return json.dumps(data, ensure_ascii=False).encode("utf-8", "replace")


class _Thread:
    """The thread with the sockets' event loop, started on first use and gone with the process."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()

    def loop(self) -> asyncio.AbstractEventLoop:
        """Return the running loop."""
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="dlenv-sockets", daemon=True).start()
            return self._loop


_THREAD = _Thread()


def _on_thread(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    future: Future[T] = asyncio.run_coroutine_threadsafe(work(), _THREAD.loop())
    return future.result()
