"""The host's RDMA devices."""

from __future__ import annotations

import stat
from pathlib import Path

from ..errors import Unsupported
from ..i18n import _

_FOLDER = Path("/dev/infiniband")


def rdma_devices(folder: Path = _FOLDER) -> tuple[str, ...]:
    """Return the device nodes of InfiniBand and RoCE.

    Raises:
        Unsupported: The host has none.
    """
    nodes = sorted(folder.iterdir()) if folder.is_dir() else []
    found = tuple(str(path) for path in nodes if stat.S_ISCHR(path.lstat().st_mode))
    if not found:
        message = _("--rdma: this host has no RDMA devices in {folder}.")
        raise Unsupported(message.format(folder=folder), hint=_("Leave --rdma out; --network host is often enough."))
    return found
