"""A kernel, started by its name, and the one client that measures every kind of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import DEVNULL
from typing import Any

import zmq
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import AsyncKernelManager

LOCAL = "python3"
PATIENCE_S = 120
_RECONNECT_MS = 2


class Client:
    """Speaks to a kernel's shell and iopub channels over plain blocking sockets.

    ZeroMQ tries a refused TCP connection again after 100 ms; here it does after 2 ms, because a local kernel is
    connected to before it listens and would look slower than it is.

    Args:
        manager: The started kernel's.
    """

    def __init__(self, manager: AsyncKernelManager) -> None:
        self._context: Any = zmq.Context()
        self._context.setsockopt(zmq.RECONNECT_IVL, _RECONNECT_MS)
        self._context.setsockopt(zmq.RCVTIMEO, PATIENCE_S * 1000)
        client = BlockingKernelClient(context=self._context)
        client.load_connection_info(manager.get_connection_info())
        self._session = client.session
        self._shell, self._iopub = client.connect_shell(), client.connect_iopub()

    def close(self) -> None:
        """Give the sockets back."""
        self._context.destroy(linger=0)

    def ask(self, kind: str, content: dict[str, Any] | None = None) -> dict[str, Any]:
        """Send a request and return the reply to it."""
        sent = self._session.send(self._shell, kind, content or {})
        return self._reply_to(sent)

    def execute(self, code: str) -> dict[str, Any]:
        """Run code and return the reply, without waiting for its outputs."""
        return self.ask("execute_request", _execution(code))

    def outputs(self, code: str) -> Iterator[dict[str, Any]]:
        """Run code and yield its messages on iopub, as they come, until the kernel is idle again.

        Raises:
            RuntimeError: The code failed.
        """
        sent = self._session.send(self._shell, "execute_request", _execution(code))
        yield from self._until_idle(sent)
        content = self._reply_to(sent)["content"]
        if content["status"] != "ok":
            raise RuntimeError(f"{content.get('ename')}: {content.get('evalue')}")

    def settle(self, reply: dict[str, Any]) -> None:
        """Read what a request left on iopub, so that nothing is under way when the next one is sent."""
        for _message in self._until_idle({"header": reply["parent_header"]}):
            pass

    def _reply_to(self, sent: Any) -> dict[str, Any]:
        while True:
            reply: dict[str, Any] = self._receive(self._shell)
            if reply["parent_header"].get("msg_id") == sent["header"]["msg_id"]:
                return reply

    def _until_idle(self, sent: Any) -> Iterator[dict[str, Any]]:
        while True:
            message = self._receive(self._iopub)
            if message["parent_header"].get("msg_id") != sent["header"]["msg_id"]:
                continue
            if message["content"].get("execution_state") == "idle":
                return
            yield message

    def _receive(self, socket: Any) -> dict[str, Any]:
        _identities, message = self._session.recv(socket, mode=0)
        assert message is not None
        return dict(message)


def _execution(code: str) -> dict[str, Any]:
    return {"code": code, "silent": False, "store_history": False, "user_expressions": {}, "allow_stdin": False}


class Kernel:
    """A kernel of a kernelspec; a context manager that starts it and takes it away again.

    Attributes:
        start_s: Seconds from the call that starts it to the first reply.
        started_at, answered_at: The same two moments as seconds since the epoch.
    """

    def __init__(self, name: str, folder: Path, loop: asyncio.AbstractEventLoop) -> None:
        self._manager = AsyncKernelManager(kernel_name=name)
        self._folder, self._loop = folder, loop
        self.start_s = self.started_at = self.answered_at = 0.0

    def __enter__(self) -> Kernel:
        self.started_at, begin = time.time(), time.perf_counter()
        self._loop.run_until_complete(self._manager.start_kernel(cwd=str(self._folder), stderr=DEVNULL))
        self.client = Client(self._manager)
        self.client.ask("kernel_info_request")
        self.start_s, self.answered_at = time.perf_counter() - begin, time.time()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.client.close()
        self._loop.run_until_complete(self._manager.shutdown_kernel(now=True))

    @property
    def id(self) -> str:
        """The kernel's id, which its container's name holds."""
        return str(self._manager.kernel_id)


@contextmanager
def event_loop() -> Iterator[asyncio.AbstractEventLoop]:
    """Yield a loop for kernel managers, which stands still while a client waits for its kernel."""
    loop = asyncio.new_event_loop()
    try:
        yield loop
    finally:
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
