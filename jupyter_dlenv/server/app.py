"""The Jupyter Server extension."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jupyter_server.extension.application import ExtensionApp

from ..errors import EngineUnavailable
from ..i18n import _
from ..jobs.principal import Principal
from ..jobs.waiting import advance_no_more
from ..kernels.board import BOARD, Phase, Report
from ..kernels.owner import owner_at
from ..paths import server_socket
from ..settings import DLEnv, load_settings
from .api import Api
from .handlers import HANDLERS
from .keeper import Keeper
from .open import OPENINGS, proxy_handlers
from .sockets import Listener, serve_jobs

EVENT = "https://events.jupyter.org/jupyter_dlenv/kernel_state/v1"
_WORDS = {Phase.READY: "ready", Phase.ENDED: "ended"}


def event_data(report: Report) -> dict[str, str]:
    """Return a report as the data of an event."""
    about = {"kernel_id": report.kernel_id, "environment": report.environment, "image": report.image}
    ended = report.phase is Phase.ENDED
    said = {"message": report.why if ended else report.message, "last_lines": report.last_lines if ended else ""}
    return {**about, **said, "state": _WORDS.get(report.phase, report.phase.value.lower())}


class DLEnvApp(ExtensionApp):
    """Serves ``dlenv/api/v1`` and, for kernels on this host, the same jobs on a 0600 socket."""

    name = "jupyter_dlenv"
    app_name = "jupyter-dlenv"
    description = "Deep learning in containers, from Jupyter."
    load_other_extensions = True
    classes = [DLEnv]

    _listener: Listener | None = None
    _keeper: Keeper | None = None
    _tell: Callable[[Report], None] | None = None

    def initialize_settings(self) -> None:
        """Read the settings and open the server's socket."""
        assert self.serverapp is not None
        settings = load_settings(self.serverapp)
        self._principal = Principal(settings.owner, root=self._root(settings))
        self._api = Api(settings)
        path = server_socket(os.getpid())
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._listener = serve_jobs(path, self._principal, settings, None)
        self.log.info(_("jupyter-dlenv serves jobs at {path}").format(path=path))
        self._keep_kernels(settings)
        self._advance_jobs()
        self._tell_events()

    def _advance_jobs(self) -> None:
        """Start jobs that wait for GPUs, if there is a ledger to wait in."""
        try:
            self._api.jobs.advance("server")
        except EngineUnavailable as error:
            self.log.warning(str(error))

    def _keep_kernels(self, settings: DLEnv) -> None:
        """Find the kernels of the server before this one again, before the first request can ask for them."""
        server: Any = self.serverapp
        owner = owner_at(settings, str(server.kernel_manager.root_dir))
        self._keeper = Keeper(owner, server.kernel_manager, server.session_manager, self.log)
        self._api.pool_status = self._keeper.pool.status

        async def begin() -> None:
            assert self._keeper is not None
            await self._keeper.adopt()
            self._keeper.start()

        if server.io_loop.asyncio_loop.is_running():
            server.io_loop.add_callback(begin)  # a server inside a program whose loop runs already, as in tests
        else:
            server.io_loop.run_sync(begin)

    def _tell_events(self) -> None:
        """Emit what happens to kernels as Jupyter events."""
        server: Any = self.serverapp
        logger = server.event_logger
        if EVENT not in logger.schemas:
            logger.register_event_schema(Path(__file__).with_name("kernel-event.yml"))
        loop = server.io_loop

        def tell(report: Report) -> None:
            loop.add_callback(logger.emit, schema_id=EVENT, data=event_data(report))

        self._tell = tell
        BOARD.listen(tell)

    def _root(self, settings: DLEnv) -> str:
        return settings.root or os.path.realpath(os.path.expanduser(self.serverapp.root_dir))  # type: ignore[union-attr]

    def initialize_handlers(self) -> None:
        """Add one handler a path of the table."""
        arguments: dict[str, Any] = {"api": self._api, "principal": self._principal}
        for path, handler in HANDLERS.items():
            self.handlers.append((f"/dlenv/api/v1{path}", handler, arguments))
        server: Any = self.serverapp
        OPENINGS.serve(server.base_url, lambda: str(server.connection_url))
        self.handlers.extend(proxy_handlers(self._principal))

    async def stop_extension(self) -> None:
        """Close the socket, and let go of the kernels that are to live on; jobs go on."""
        advance_no_more()
        await OPENINGS.close()
        if self._tell is not None:
            BOARD.unlisten(self._tell)
            self._tell = None
        if self._keeper is not None:
            await self._keeper.stop()
            self._keeper = None
        if self._listener is not None:
            self._listener.close()
            self._listener = None
