"""The Jupyter Server extension."""

from __future__ import annotations

import os
from typing import Any

from jupyter_server.extension.application import ExtensionApp

from ..i18n import _
from ..jobs.principal import Principal
from ..paths import server_socket
from ..settings import DLEnv, load_settings
from .api import Api
from .handlers import HANDLERS
from .sockets import Listener, serve_jobs


class DLEnvApp(ExtensionApp):
    """Serves ``dlenv/api/v1`` and, for kernels on this host, the same jobs on a 0600 socket."""

    name = "jupyter_dlenv"
    app_name = "jupyter-dlenv"
    description = "Deep learning in containers, from Jupyter."
    load_other_extensions = True
    classes = [DLEnv]

    _listener: Listener | None = None

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

    def _root(self, settings: DLEnv) -> str:
        return settings.root or os.path.realpath(os.path.expanduser(self.serverapp.root_dir))  # type: ignore[union-attr]

    def initialize_handlers(self) -> None:
        """Add one handler a path of the table."""
        arguments: dict[str, Any] = {"api": self._api, "principal": self._principal}
        for path, handler in HANDLERS.items():
            self.handlers.append((f"/dlenv/api/v1{path}", handler, arguments))

    async def stop_extension(self) -> None:
        """Close the socket; jobs go on."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
