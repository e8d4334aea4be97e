"""ContainerProvisioner: a kernel's life in Jupyter's words, on an engine.

Jupyter makes one instance a kernel and keeps it across restarts. Which method Jupyter calls when is said at each.
"""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any, cast

from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.manager import KernelManager
from jupyter_client.provisioning.provisioner_base import KernelProvisionerBase
from tornado.web import HTTPError
from traitlets import Dict
from traitlets.config import Config

from .. import background
from ..errors import DLEnvError, EnvironmentNotFound, InvalidRequest
from ..i18n import _
from ..server.api import status_of
from ..spec import JobState, JobStatus, require_id
from . import records
from .adopt import adopt, record_of
from .environments import Environment, EnvironmentManager, environment_from_json
from .launch import Wish, launch
from .owner import Owner, owner_of
from .pool import claim
from .running import LaunchedKernel
from .start import NOTEBOOK
from .watch import DeathWatch

ADOPT = "dlenv_adopt"
"""Argument of ``start_kernel`` that finds a running kernel again instead of starting one."""

_POLL_S = 0.1
_LOOK_S = 10.0


class ContainerProvisioner(KernelProvisionerBase):
    """Runs a kernel inside a container of its environment's image, or as a plain process where the engine says so."""

    environment = Dict(help="The environment, as its kernelspec holds it.").tag(config=True)

    _kernel: LaunchedKernel | None = None
    _watch: DeathWatch | None = None
    _adopting = False
    _notebook = ""
    _looked_at = 0.0
    _alone = True
    _closed = False
    _launching: asyncio.Future[LaunchedKernel] | None = None

    @property
    def _manager(self) -> KernelManager:
        assert isinstance(self.parent, KernelManager)
        return self.parent

    @property
    def kernel(self) -> LaunchedKernel | None:
        """The kernel, None before its start and after its shutdown."""
        return self._kernel

    @property
    def has_process(self) -> bool:
        """True between launch and end; asserted by the kernel manager right after the launch."""
        return self._watch is not None and self._watch.ended is None

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        """Called by the kernel manager before each start; nothing of the server's environment is handed on."""
        require_id(self.kernel_id)
        _refuse_pickle(self._manager)
        self._closed = False
        self._adopting = bool(kwargs.pop(ADOPT, False)) and self._kernel is None
        self._notebook = str((kwargs.get("env") or {}).get(NOTEBOOK, ""))
        kwargs["cmd"] = []
        return kwargs

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Called by the kernel manager at each start; returns when the kernel listens, or raises why it ended."""
        owner = owner_of(self._manager)
        self._alone = not owner.is_server
        try:
            self._launching = asyncio.ensure_future(self._launch(owner, str(kwargs.get("cwd") or "")))
            self._kernel = await self._launching
        except DLEnvError as error:
            raise (_http_error(error) if owner.is_server else error) from error
        except asyncio.CancelledError:
            if self._closed:
                raise RuntimeError(_("The kernel was shut down while it started.")) from None
            raise
        finally:
            self._launching = None
        self._watch = DeathWatch(self._kernel, self._asked_for, self.log)
        self._watch.start()
        self.connection_info = cast(KernelConnectionInfo, self._kernel.connection)
        return self.connection_info

    def _asked_for(self, status: JobStatus) -> bool:
        # Clients without a server may ask the kernel itself to end; in a server only code in a cell does.
        return bool(self._manager.shutting_down) or (self._alone and status.state is JobState.SUCCEEDED)

    async def _launch(self, owner: Owner, cwd: str) -> LaunchedKernel:
        if self._adopting:
            # Jupyter takes a file that a killed server left for this start's own.
            Path(self._manager.connection_file).unlink(missing_ok=True)
            return await adopt(record_of(self.kernel_id), owner)
        wish = Wish(self._current(), self.kernel_id, self._manager.session.key, cwd, self._notebook)
        if self._kernel is None:
            claimed = await claim(wish, owner)
            if claimed is not None:
                return claimed
        return await launch(wish, owner, self.log, self._kernel)

    def _current(self) -> Environment:
        """Return the environment as it is now: between two starts its image may have changed."""
        environment = environment_from_json(self.environment)
        if self._kernel is not None:
            try:
                return EnvironmentManager().get(environment.name)
            except EnvironmentNotFound:
                pass  # it was removed, and its kernel lives on
        return environment

    async def poll(self) -> int | None:
        """Called by the restarter and by ``is_alive``: None while it runs or its end is being explained."""
        watch = self._watch
        if watch is None:
            return 0
        if watch.ended is None and self._due():
            await asyncio.wrap_future(background.start(watch.look()))
        if watch.ended is None:
            return None
        return watch.ended.exit_code if watch.ended.exit_code is not None else 1

    def _due(self) -> bool:
        """Return whether to ask the engine itself: Docker tells of ends, and is asked now and then all the same."""
        now = asyncio.get_running_loop().time()
        if self._manager.shutting_down or now - self._looked_at >= _LOOK_S:
            self._looked_at = now
            return True
        return False

    async def wait(self) -> int | None:
        """Called by the kernel manager when it knows that the kernel has ended."""
        while (code := await self.poll()) is None:
            await asyncio.sleep(_POLL_S)
        return code

    async def send_signal(self, signum: int) -> None:
        """Called for an interrupt (SIGINT) and by :meth:`terminate` and :meth:`kill`."""
        if signum == 0:
            await self.poll()
        elif self._kernel is not None and self.has_process:
            await self._kernel.signal(signum)

    async def kill(self, restart: bool = False) -> None:
        """Called when the kernel did not stop in time."""
        await self.send_signal(signal.SIGKILL)

    async def terminate(self, restart: bool = False) -> None:
        """Called when the kernel did not answer the shutdown request."""
        await self.send_signal(signal.SIGTERM)

    async def cleanup(self, restart: bool = False) -> None:
        """Called after the end; a restart goes on from what is there, anything else leaves nothing."""
        if self._watch is not None:
            self._watch.stop()
        if restart:
            return
        await self.abandon_start()
        if self._kernel is not None:
            await self._kernel.clean()
            self._kernel = self._watch = None

    async def abandon_start(self) -> None:
        """End a start that goes on, such as a restart that waits for GPUs while somebody shuts the kernel down."""
        self._closed = True
        if self._launching is not None:
            self._launching.cancel()
            await asyncio.wait([self._launching])

    def let_go(self) -> None:
        """Leave the kernel running for the next server. Called by our extension when its server stops."""
        if self._watch is not None:
            self._watch.stop()
        if self._kernel is not None:
            self._kernel.let_go()
            self._kernel = self._watch = None

    def note_session(self, session: dict[str, str]) -> None:
        """Note which notebook the kernel belongs to. Called by our extension."""
        if self._kernel is not None:
            records.note_session(self._kernel.folder.id, session)

    async def get_provisioner_info(self) -> dict[str, Any]:
        """Return what another server needs to find this kernel again."""
        info = await super().get_provisioner_info()
        return {**info, "native_id": self._kernel.native_id if self._kernel else ""}


def _http_error(error: DLEnvError) -> HTTPError:
    # Jupyter's handlers show the text of this kind only; any other is "Unhandled error" to the person who waits.
    return HTTPError(status_of(error), str(error).replace("%", "%%"))


def _refuse_pickle(manager: KernelManager) -> None:
    # Unpickling what an untrusted container sends would hand it the server.
    session: Config = manager.config.get("Session", Config())
    if "pickle" in (session.get("packer"), session.get("unpacker")) or manager.session.packer == "pickle":
        raise InvalidRequest(_("Kernels in containers do not start while c.Session.packer is 'pickle'."))
