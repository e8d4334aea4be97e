"""A kernel of the process engine: ipykernel as a plain process, which ends soon after its owner."""

from __future__ import annotations

import os
import sys
from typing import Any

from ipykernel.kernelapp import IPKernelApp

from .boot import EXTENSION, start_watchdog


def main() -> None:
    """Run the kernel with this process's arguments."""
    lock = os.environ.pop("DLENV_OWNER_LOCK", "")
    grace = float(os.environ.pop("DLENV_OWNER_GRACE", "") or 120)
    if lock:
        start_watchdog(lock, grace)
    app: Any = IPKernelApp.instance(extra_extensions=[EXTENSION])  # ipykernel has no types
    app.initialize(sys.argv[1:])
    app.shell.extension_manager.loaded.discard(EXTENSION)  # see boot.py
    app.start()


if __name__ == "__main__":
    main()
