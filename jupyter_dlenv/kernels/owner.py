"""Who starts a kernel: a Jupyter server, or a process without one (nbclient, papermill, a console)."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

from ..settings import DLEnv, load_settings

EMBEDDED_GRACE_S = 5.0


@dataclass(frozen=True)
class Owner:
    """The process that starts a kernel.

    Attributes:
        server_root: The server's root folder, empty without a server.
        grace_s: How long a kernel lives on without it.
    """

    settings: DLEnv
    server_root: str
    grace_s: float

    @property
    def is_server(self) -> bool:
        """True in a Jupyter server, where nobody waits at a terminal."""
        return bool(self.server_root)

    def say(self, text: str) -> None:
        """Show a step to the person at the terminal; a server shows it in its log instead."""
        if self.is_server:
            self.settings.log.info(text)
        else:
            sys.stderr.write(f"{text}\n")


def owner_of(manager: Any) -> Owner:
    """Return who a kernel manager belongs to; a server's kernel managers hang below its mapping manager."""
    root = _server_root(manager.parent)
    settings = load_settings(manager)
    return Owner(settings, root, settings.kernel_grace if root else EMBEDDED_GRACE_S)


def owner_at(settings: DLEnv, server_root: str) -> Owner:
    """Return a Jupyter server as an owner."""
    return Owner(settings, server_root, settings.kernel_grace)


def _server_root(mapping: Any) -> str:
    # Looked up, not imported: a process without a server should not pay for loading one.
    module = sys.modules.get("jupyter_server.services.kernels.kernelmanager")
    is_server = module is not None and isinstance(mapping, module.MappingKernelManager)
    return str(mapping.root_dir) if is_server else ""
