"""Unix sockets that serve the job API: who can open one *is* its principal, which no request can change.

They run on a thread of their own, so a busy notebook client or a blocked server loop never holds up a job's log.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.iostream import StreamClosedError
from tornado.netutil import bind_unix_socket
from tornado.web import Application, RequestHandler

from .. import background
from ..errors import DLEnvError
from ..jobs.principal import Principal
from ..settings import DLEnv
from ..spec import Identity, new_id
from .api import BODY_LIMIT, LOG_TYPE, ROUTES, Answer, Api, Call, Frames, Function, frame_bytes, parse_body, status_of

_MODE = 0o600


class Listener:
    """A socket that is being served; :meth:`close` ends it and removes its file."""

    def __init__(self, path: Path, server: HTTPServer) -> None:
        self.path = path
        self._server = server

    def close(self) -> None:
        """Stop listening; running answers are cut."""
        background.run(self._close)
        self.path.unlink(missing_ok=True)

    async def _close(self) -> None:
        self._server.stop()
        await self._server.close_all_connections()


def serve_jobs(
    path: Path, principal: Principal, settings: DLEnv, owner: Identity | None, *, made_in: Path | None = None
) -> Listener:
    """Listen at a path for one principal.

    Args:
        owner: Who may connect when this process is root; otherwise only this user may.
        made_in: A folder of ours on the same file system where the socket gets its mode and owner before it is moved
            to its place. The place may be a folder that a container writes, where a name can change hands any time.
    """
    first = (made_in or path.parent) / f".{new_id()[:8]}.sock"

    async def listen() -> HTTPServer:
        server = HTTPServer(_application(principal, settings), max_body_size=BODY_LIMIT)
        server.add_socket(bind_unix_socket(str(first), mode=_MODE))
        return server

    server = background.run(listen)
    if owner is not None and os.geteuid() == 0:
        os.chown(first, owner.uid, owner.gid)
    os.replace(first, path)
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
    finally:
        if isinstance(answer, AsyncGenerator):
            await answer.aclose()  # at once: a build ends with its reader


def _dump(data: Any) -> bytes:
    return data if isinstance(data, bytes) else json.dumps(data, ensure_ascii=False).encode("utf-8", "replace")
