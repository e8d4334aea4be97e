"""Removes what kernels left behind whose owner is gone: killed, or a client that exits without cleaning up."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import uuid
from collections.abc import Awaitable, Callable

from ..engines.base import Engine
from ..engines.registry import load_engine
from ..errors import DLEnvError, EngineUnavailable, InvalidRequest
from ..paths import kernels_dir
from . import records
from .folder import KernelFolder
from .records import KernelRecord

_AT_EXIT_S = 2.0
_LOOK_S = 0.1

Clean = Callable[[], Awaitable[None]]
Ended = Callable[[], Awaitable[bool]]

_LEFT: dict[str, tuple[Ended, Clean]] = {}
"""Kernels of this process that nobody has cleaned up yet."""


async def sweep() -> list[str]:
    """Remove the folders and ended replicas of kernels without an owner and return their ids.

    One that still runs is left to its watchdog, one out of reach to a server that can ask for it. Whatever goes wrong
    is left for the next time.
    """
    gone = []
    for folder in await asyncio.to_thread(_abandoned):
        record = records.read(folder.id)
        if record and not within_reach(record):
            continue
        kernel_id = record.kernel_id if record else folder.id
        with contextlib.suppress(DLEnvError):
            # Both: one that was being claimed from a pool may have the new name or still the old one.
            if await _forget(kernel_id) and await _forget(folder.id):
                await asyncio.to_thread(folder.remove)
                records.forget(folder.id)
                gone.append(kernel_id)
    return gone


def engine_of(record: KernelRecord) -> Engine:
    """Return the engine that runs a kernel.

    Raises:
        InvalidRequest: It is not installed here.
    """
    return load_engine(str(record.environment.get("engine") or "docker"))


def within_reach(record: KernelRecord) -> bool:
    """True when this process asks where the kernel is: elsewhere it may live, whatever is known here."""
    try:
        return record.place in ("", engine_of(record).place)
    except InvalidRequest:
        return False


def _abandoned() -> list[KernelFolder]:
    if not kernels_dir().is_dir():
        return []
    names = [path.name for path in kernels_dir().iterdir() if len(path.name) == 32]
    folders = [KernelFolder(str(uuid.UUID(name))) for name in names if _is_hex(name)]
    return [folder for folder in folders if folder.abandoned()]


def _is_hex(name: str) -> bool:
    return all(char in "0123456789abcdef" for char in name)


async def _forget(kernel_id: str) -> bool:
    """Remove a kernel that has ended from its engine; False while it runs."""
    engines: list[Engine] = [load_engine("process"), load_engine("docker")]
    for engine in engines:
        status = (await engine.poll([kernel_id])).get(kernel_id)
        if status is not None and not status.state.ended:
            return False
        await engine.remove(kernel_id)
    return True


async def remove_ownerless(record: KernelRecord) -> None:
    """Remove a kernel that has no owner, running or not; one that found an owner meanwhile is left alone."""
    folder = KernelFolder(record.folder_id)
    if folder.path.exists() and not folder.adopt():
        return
    try:
        for name in ("docker", "process"):
            with contextlib.suppress(EngineUnavailable):
                for kernel_id in {record.kernel_id, record.folder_id}:
                    await load_engine(name).remove(kernel_id)
    except DLEnvError:
        folder.release()
        raise
    await asyncio.to_thread(folder.remove)
    records.forget(record.folder_id)


def clean_at_exit(kernel_id: str, ended: Ended, clean: Clean) -> None:
    """Clean a kernel up when this process ends, if it has ended by then: some clients shut down and do not wait."""
    if not _LEFT:
        atexit.register(_at_exit)
    _LEFT[kernel_id] = (ended, clean)


def cleaned(kernel_id: str) -> None:
    """Note that a kernel was cleaned up."""
    _LEFT.pop(kernel_id, None)


def _at_exit() -> None:
    if _LEFT:
        asyncio.run(_clean_the_ended())


async def _clean_the_ended() -> None:
    await asyncio.gather(*(_clean_one(*pair) for pair in list(_LEFT.values())), return_exceptions=True)


async def _clean_one(ended: Ended, clean: Clean) -> None:
    for _look in range(int(_AT_EXIT_S / _LOOK_S)):
        if await ended():
            await clean()
            return
        await asyncio.sleep(_LOOK_S)
