"""Runs a line of ours in a kernel, before anybody else talks to it."""

from __future__ import annotations

import zmq
import zmq.asyncio
from jupyter_client.session import Session

from ..errors import StartFailed
from ..i18n import _

_SHELL = 1


async def execute(prefix: str, key: bytes, code: str) -> None:
    """Run code silently and wait for its end.

    Args:
        prefix: Of the kernel's sockets.

    Raises:
        StartFailed: It raised.
    """
    session = Session(key=key)
    socket = zmq.asyncio.Context.instance().socket(zmq.DEALER)
    socket.linger = 0
    try:
        socket.connect(f"ipc://{prefix}-{_SHELL}")
        content = {"code": code, "silent": True, "store_history": False, "allow_stdin": False, "stop_on_error": False}
        await socket.send_multipart(session.serialize(session.msg("execute_request", content)))
        _identities, parts = session.feed_identities(await socket.recv_multipart())
        reply = session.deserialize(parts)["content"]
    finally:
        socket.close()
    if reply.get("status") != "ok":
        raise StartFailed(_("The kernel refused its start: {error}").format(error=reply.get("evalue", reply)))
