"""Kernels that wait, started and imported, for somebody to claim them.

A pooled kernel is a kernel like any other, under an id that nobody knows. Claiming one renames its container, which
happens at once or not at all, gives it its working folder and notebook, and hands its connection over. One with GPUs
holds them while it waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from dataclasses import dataclass, replace
from pathlib import Path

from ..engines.docker.engine import DockerEngine
from ..errors import DLEnvError
from ..gpus.lease import Lease
from ..gpus.leases import Leases
from ..i18n import _
from ..spec import Identity, new_id
from ..workspace import find_root, inside
from . import records
from .board import BOARD, Phase
from .environments import Environment, EnvironmentManager, PoolStatus
from .launch import Wish, launch, serve_for
from .message import execute
from .owner import Owner
from .running import LaunchedKernel
from .start import NOTEBOOK
from .sweep import clean_at_exit, cleaned
from .watch import DeathWatch

_AGAIN_S = 60.0
_CLAIM_S = 10.0


@dataclass(frozen=True)
class Waiting:
    """A kernel that waits to be claimed.

    Attributes:
        image_id: What its container was made from.
    """

    environment: Environment
    image_id: str
    kernel: LaunchedKernel
    watch: DeathWatch

    @property
    def alive(self) -> bool:
        """True until its end was seen."""
        return self.watch.ended is None


class KernelPool:
    """The waiting kernels of one Jupyter server; all its methods belong to the server's loop."""

    def __init__(self, owner: Owner, log: logging.Logger) -> None:
        self._owner = owner
        self._log = log
        self._root = find_root(Path(owner.server_root), setting=owner.settings.root, server_root=owner.server_root)
        self._waiting: list[Waiting] = []
        self._failed: dict[str, tuple[float, str]] = {}
        self._closed = False

    def status(self, environment: Environment) -> PoolStatus:
        """Return what is there for an environment."""
        mine = [item.kernel for item in self._waiting if item.environment == environment and item.alive]
        gpus = tuple(uuid for kernel in mine for uuid in kernel.gpu_uuids)
        message = self._failed[environment.name][1] if environment.name in self._failed else ""
        return PoolStatus(environment.pool, len(mine), gpus, message)

    async def fill(self) -> None:
        """Start what is missing and remove what nobody wants any more; to be called now and then."""
        wanted = {item.name: item for item in await asyncio.to_thread(EnvironmentManager().list) if item.pool}
        if not wanted and not self._waiting:
            return
        images = {name: await _image_id(environment) for name, environment in wanted.items()}
        for item in self._superfluous(wanted, images):
            await self._drop(item)
        for name, environment in wanted.items():
            while not self._closed and self.status(environment).ready < environment.pool and not self._resting(name):
                await self._add(environment, images[name])

    def _superfluous(self, wanted: dict[str, Environment], images: dict[str, str]) -> list[Waiting]:
        dropped, kept = [], dict.fromkeys(wanted, 0)
        for item in self._waiting:
            name = item.environment.name
            fits = item.alive and wanted.get(name) == item.environment and images[name] == item.image_id
            if fits and kept[name] < item.environment.pool:
                kept[name] += 1
            else:
                dropped.append(item)
        return dropped

    def _resting(self, name: str) -> bool:
        return name in self._failed and asyncio.get_running_loop().time() - self._failed[name][0] < _AGAIN_S

    async def _add(self, environment: Environment, image_id: str) -> None:
        wish = Wish(environment, new_id(), secrets.token_hex(16).encode(), str(self._root), pooled=True)
        try:
            kernel = await launch(wish, self._owner, self._log)
        except DLEnvError as error:
            self._failed[environment.name] = (asyncio.get_running_loop().time(), error.message)
            message = _("The pool of {name} could not be filled: {error}")
            self._log.warning(message.format(name=environment.name, error=error))
            return
        self._failed.pop(environment.name, None)
        watch = DeathWatch(kernel, lambda status: True, self._log)
        watch.start()
        self._waiting.append(Waiting(environment, image_id, kernel, watch))
        if self._closed:
            await self.close()

    async def _drop(self, item: Waiting) -> None:
        if item in self._waiting:
            self._waiting.remove(item)
        item.watch.stop()
        with contextlib.suppress(DLEnvError):
            await item.kernel.clean()

    async def claim(self, wish: Wish) -> LaunchedKernel | None:
        """Return a waiting kernel as the one that was wished for, None when none fits."""
        here = Path(wish.cwd or self._root)
        for item in list(self._waiting):
            if item.environment != wish.environment or not item.alive or not inside(str(here), str(self._root)):
                continue
            self._waiting.remove(item)
            item.watch.stop()
            try:
                return await asyncio.wait_for(self._hand_over(item.kernel, wish, here), _CLAIM_S)
            except (DLEnvError, OSError, asyncio.TimeoutError) as error:
                self._log.warning(_("A waiting kernel could not be claimed: {error}").format(error=error))
                await self._drop(item)
        return None

    async def _hand_over(self, waiting: LaunchedKernel, wish: Wish, here: Path) -> LaunchedKernel:
        assert isinstance(waiting.engine, DockerEngine)
        environment = wish.environment
        await asyncio.gather(
            waiting.engine.rename(waiting.native_id, wish.kernel_id, waiting.attempt),
            execute(waiting.folder.prefix, waiting.connection["key"], _arrival(here, wish.notebook)),
        )
        record = records.read(waiting.folder.id)
        if record is not None:
            records.write(replace(record, kernel_id=wish.kernel_id, cwd=str(here), pooled=False))
        cleaned(waiting.kernel_id)
        waiting.listener.close()
        holder = waiting.folder.path.stat()
        who = Identity(holder.st_uid, holder.st_gid)
        listener = serve_for(waiting.folder, self._owner, wish.kernel_id, environment, str(self._root), who)
        lease = await self._lease_of(waiting, wish)
        kernel = replace(waiting, kernel_id=wish.kernel_id, listener=listener, lease=lease)
        clean_at_exit(kernel.kernel_id, kernel.ended, kernel.clean)
        BOARD.update(kernel.kernel_id, phase=Phase.READY, **environment.report())
        return kernel

    async def _lease_of(self, waiting: LaunchedKernel, wish: Wish) -> Lease:
        """Return the waiting kernel's GPUs as held under the id that it has now."""
        ask = wish.environment.ask(wish.kernel_id, self._owner.settings.owner)
        lease = await Leases(self._owner.settings).renew(ask, waiting.gpu_uuids)
        waiting.lease.close()
        return lease

    async def close(self) -> None:
        """Remove every waiting kernel."""
        self._closed = True
        await asyncio.gather(*(self._drop(item) for item in list(self._waiting)))


def _arrival(here: Path, notebook: str) -> str:
    """Return what a claimed kernel runs first, silently."""
    lines = ["import os as _os", f"_os.chdir({str(here)!r})"]
    if notebook:
        lines += [f"_os.environ[{NOTEBOOK!r}] = __session__ = {notebook!r}"]
    return "\n".join([*lines, "del _os"])


async def _image_id(environment: Environment) -> str:
    from ..engines.registry import load_engine

    engine = load_engine("docker")
    assert isinstance(engine, DockerEngine)
    try:
        return (await engine.image(environment.image)).id
    except DLEnvError:
        return ""


_POOLS: dict[str, KernelPool] = {}
"""The pools of this process, by their server's root folder."""


def register(server_root: str, pool: KernelPool) -> None:
    """Make a pool known to the provisioners of its server."""
    _POOLS[server_root] = pool


def unregister(server_root: str) -> None:
    """Make it unknown again."""
    _POOLS.pop(server_root, None)


async def claim(wish: Wish, owner: Owner) -> LaunchedKernel | None:
    """Return a waiting kernel of this server's pool, None when there is none."""
    pool = _POOLS.get(owner.server_root) if wish.environment.pool else None
    return await pool.claim(wish) if pool is not None else None
