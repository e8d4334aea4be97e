"""A dead kernel's last message: its owner sends it from the kernel's own output socket, so every client shows it.

Clients reconnect to that socket by themselves. The message's parent is the request that ran last, which the kernel
noted in its folder; what it noted goes nowhere but back to its own clients.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import zmq
import zmq.asyncio
from jupyter_client.session import Session

from ..lastwords import read_parent

_FIRST_S = 1.5
_OTHERS_S = 0.2
_READ_S = 0.1
_IOPUB = 2
_ERROR_NAME = "KernelDied"


async def publish(folder: Path, prefix: str, key: bytes, message: str, last_lines: str) -> bool:
    """Send the message to whoever listens; return whether anybody did.

    Args:
        folder: The kernel's folder.
        prefix: Its sockets' common prefix.
    """
    parent = read_parent(str(folder))
    socket = zmq.asyncio.Context.instance().socket(zmq.XPUB)
    socket.linger = 200
    try:
        socket.bind(f"ipc://{prefix}-{_IOPUB}")
        if not await socket.poll(int(_FIRST_S * 1000)):
            return False
        await asyncio.sleep(_OTHERS_S)  # other clients reconnect at about the same time
        session = Session(key=key)
        lines = [message, *last_lines.splitlines()]
        content = {"ename": _ERROR_NAME, "evalue": message, "traceback": lines}
        parts = session.serialize(session.msg("error", content, parent=parent), ident=b"error")
        await socket.send_multipart(parts)
        await asyncio.sleep(_READ_S)  # a client that hears of the end first stops to read
        return True
    except (zmq.ZMQError, OSError):
        return False  # its folder is gone: there is nobody to tell
    finally:
        socket.close()
