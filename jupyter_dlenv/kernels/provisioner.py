"""ContainerProvisioner: a kernel's life in Jupyter's words, on an engine.

Jupyter makes one instance a kernel and keeps it across restarts. Which method Jupyter calls when is said at each.
"""

from __future__ import annotations

import asyncio
import signal
from typing import Any, cast

from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.manager import KernelManager
from jupyter_client.provisioning.provisioner_base import KernelProvisionerBase
from tornado.web import HTTPError
from traitlets import Dict
from traitlets.config import Config

from ..errors import DLEnvError, InvalidRequest
from ..i18n import _
from ..server.api import status_of
from ..spec import JobStatus, require_id
from .environments import environment_from_json
from .launch import LaunchedKernel, launch
from .owner import Owner, owner_of

_POLL_S = 0.1


class ContainerProvisioner(KernelProvisionerBase):
    """Runs a kernel inside a container of its environment's image, or as a plain process where the engine says so."""

    environment = Dict(help="The environment, as its kernelspec holds it.").tag(config=True)

    _kernel: LaunchedKernel | None = None
    _ended: JobStatus | None = None

    @property
    def _manager(self) -> KernelManager:
        assert isinstance(self.parent, KernelManager)
        return self.parent

    @property
    def has_process(self) -> bool:
        """True between launch and end; asserted by the kernel manager right after the launch."""
        return self._kernel is not None and self._ended is None

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        """Called by the kernel manager before each start; nothing of the server's environment is handed on."""
        require_id(self.kernel_id)
        _refuse_pickle(self._manager)
        kwargs["cmd"] = []
        return kwargs

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Called by the kernel manager at each start; returns when the kernel listens, or raises why it ended."""
        owner = owner_of(self._manager)
        try:
            self._kernel = await self._launch(owner, str(kwargs.get("cwd") or ""))
        except DLEnvError as error:
            raise (_http_error(error) if owner.is_server else error) from error
        self._ended = None
        self.connection_info = cast(KernelConnectionInfo, self._kernel.connection)
        return self.connection_info

    async def _launch(self, owner: Owner, cwd: str) -> LaunchedKernel:
        return await launch(
            environment_from_json(self.environment),
            owner,
            kernel_id=self.kernel_id,
            key=self._manager.session.key,
            cwd=cwd,
            previous=self._kernel,
            log=self.log,
        )

    async def poll(self) -> int | None:
        """Called by the restarter and by ``is_alive``: None while it runs, else an exit code."""
        if self._kernel is None:
            return 0
        if self._ended is None:
            status = await self._kernel.status()
            if not status.state.ended:
                return None
            self._ended = status
            await self._explain(status)
        return self._ended.exit_code if self._ended.exit_code is not None else 1

    async def _explain(self, status: JobStatus) -> None:
        if self._kernel is not None and not self._manager.shutting_down:
            self.log.warning(await self._kernel.epitaph(status))

    async def wait(self) -> int | None:
        """Called by the kernel manager when it knows that the kernel has ended."""
        while (code := await self.poll()) is None:
            await asyncio.sleep(_POLL_S)
        return code

    async def send_signal(self, signum: int) -> None:
        """Called for an interrupt (SIGINT) and by :meth:`terminate` and :meth:`kill`."""
        if signum == 0:
            await self.poll()
        elif self._kernel is not None and self._ended is None:
            await self._kernel.signal(signum)

    async def kill(self, restart: bool = False) -> None:
        """Called when the kernel did not stop in time."""
        await self.send_signal(signal.SIGKILL)

    async def terminate(self, restart: bool = False) -> None:
        """Called when the kernel did not answer the shutdown request."""
        await self.send_signal(signal.SIGTERM)

    async def cleanup(self, restart: bool = False) -> None:
        """Called after the end; a restart keeps the folder, the key and the endpoints, anything else leaves nothing."""
        if self._kernel is not None:
            await self._kernel.clean(keep_folder=restart)
            if not restart:
                self._kernel = None

    async def get_provisioner_info(self) -> dict[str, Any]:
        """Return what another server needs to find this kernel again."""
        info = await super().get_provisioner_info()
        return {**info, "native_id": self._kernel.job.native_id if self._kernel else ""}


def _http_error(error: DLEnvError) -> HTTPError:
    # Jupyter's handlers show the text of this kind only; any other is "Unhandled error" to the person who waits.
    return HTTPError(status_of(error), str(error).replace("%", "%%"))


def _refuse_pickle(manager: KernelManager) -> None:
    # Unpickling what an untrusted container sends would hand it the server.
    session: Config = manager.config.get("Session", Config())
    if "pickle" in (session.get("packer"), session.get("unpacker")) or manager.session.packer == "pickle":
        raise InvalidRequest(_("Kernels in containers do not start while c.Session.packer is 'pickle'."))
