"""``python -m jupyter_dlenv.kernels NAME -f CONNECTION_FILE``: a kernel for clients that run a kernelspec's argv.

Such a client (VS Code) knows nothing of provisioners and talks TCP on the loopback. The kernel's own sockets stay in
its private folder; this process passes the bytes between the two, and signals on.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import DLEnvError, InvalidRequest
from ..i18n import _
from ..settings import load_settings
from ..spec import JobState, new_id
from .environments import EnvironmentManager
from .folder import CHANNELS
from .launch import Wish, launch
from .owner import EMBEDDED_GRACE_S, Owner
from .running import LaunchedKernel
from .watch import DeathWatch

_CHUNK = 1 << 16
_LOOK_S = 0.1


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(_CHUNK):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


async def relay(host: str, port: int, path: Path) -> asyncio.Server:
    """Listen at a TCP port and pass every connection on to a Unix socket; ZeroMQ's bytes are the same on both."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            inner_reader, inner_writer = await asyncio.open_unix_connection(str(path))
        except OSError:
            writer.close()
            return
        await asyncio.gather(_pass_on(reader, inner_writer), _pass_on(inner_reader, writer))

    return await asyncio.start_server(connected, host, port)


def loopback_address(connection: Mapping[str, Any]) -> str:
    """Return where the client wants the kernel.

    Raises:
        InvalidRequest: Somewhere else than on this host by TCP.
    """
    host = str(connection["ip"])
    if connection.get("transport", "tcp") != "tcp" or not host.startswith("127."):
        raise InvalidRequest(_("A kernel of an environment listens on the loopback only, not at {ip}.").format(ip=host))
    return host


async def serve(name: str, connection_file: Path) -> int:
    """Run one kernel to its end and return its exit code."""
    connection = json.loads(connection_file.read_text(encoding="utf-8"))
    host = loopback_address(connection)
    environment = EnvironmentManager().get(name)
    wish = Wish(environment, new_id(), connection["key"].encode(), os.getcwd())
    log = logging.getLogger("jupyter_dlenv")
    kernel = await launch(wish, Owner(load_settings(), "", EMBEDDED_GRACE_S), log)
    stop = asyncio.Event()
    watch = DeathWatch(kernel, lambda status: stop.is_set() or status.state is JobState.SUCCEEDED, log)
    watch.start()
    _forward_signals(kernel, stop)
    pairs = [(connection[f"{channel}_port"], f"k-{number}") for number, channel in enumerate(CHANNELS, start=1)]
    try:
        servers = [await relay(host, port, kernel.folder.path / socket) for port, socket in pairs]
        code = await _until_ended(watch, stop)
        for server in servers:
            server.close()
        return code
    finally:
        watch.stop()
        await kernel.clean()


def _forward_signals(kernel: LaunchedKernel, stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Task[None]] = set()

    def interrupt() -> None:
        task = loop.create_task(kernel.signal(signal.SIGINT))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    loop.add_signal_handler(signal.SIGINT, interrupt)
    for signum in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(signum, stop.set)


async def _until_ended(watch: DeathWatch, stop: asyncio.Event) -> int:
    while not stop.is_set():
        if watch.ended is not None:
            return watch.ended.exit_code or 0
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(stop.wait(), _LOOK_S)
    return 0


def main() -> int:
    """Read the command line and run the kernel."""
    parser = argparse.ArgumentParser("python -m jupyter_dlenv.kernels")
    parser.add_argument("name")
    parser.add_argument("-f", dest="connection_file", type=Path, required=True)
    arguments = parser.parse_args()
    try:
        return asyncio.run(serve(arguments.name, arguments.connection_file))
    except DLEnvError as error:
        sys.stderr.write(f"{error}\n")
        return 1


sys.exit(main())
