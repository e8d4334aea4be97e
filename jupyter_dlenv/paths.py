"""Where jupyter-dlenv keeps things on the host. No folder is made here."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from jupyter_core.paths import jupyter_data_dir, jupyter_runtime_dir

API_SOCKET = "api.sock"
SOCKET_PATH_BYTES = 107
"""The most that a Unix socket's path can hold."""


def data_dir() -> Path:
    """Return the folder of runtimes, environments' homes and packages, and job records."""
    return Path(jupyter_data_dir()) / "dlenv"


def jobs_dir() -> Path:
    """Return the folder that holds one folder a job."""
    return data_dir() / "jobs"


def environment_dir(name: str) -> Path:
    """Return the folder of an environment: its home and the packages installed into it."""
    return data_dir() / "environments" / (name or "_none")


def cache_dir() -> Path:
    """Return the folder of the caches that a person's kernels and jobs share, unless a setting moves it."""
    return data_dir() / "cache"


def kernels_dir() -> Path:
    """Return the short-pathed folder of kernels' sockets: a Unix socket's path holds 107 bytes."""
    base = os.environ.get("XDG_RUNTIME_DIR", "")
    if base and len(os.fsencode(base)) <= 40 and os.path.isdir(base) and os.access(base, os.W_OK):
        return Path(base) / "dlenv"
    usual = tempfile.gettempdir()
    return Path(usual if len(os.fsencode(usual)) <= 30 else "/tmp") / f"dlenv-{os.getuid()}"


def kernel_dir(kernel_id: str) -> Path:
    """Return the private folder of one kernel."""
    return kernels_dir() / kernel_id.replace("-", "")


def server_socket(pid: int) -> Path:
    """Return the 0600 socket of the server with this process id; kernels on the host find it by their parent's id."""
    return Path(jupyter_runtime_dir()) / f"dlenv-{pid}.sock"


def ledger_dir() -> Path:
    """Return the folder in which all users of this host note their GPUs, unless a setting moves it.

    It must not outlive a start of the host, and everybody must come to the same answer.
    """
    made, common = Path("/run/lock/jupyter-dlenv"), Path("/run/lock")
    everybody = common.is_dir() and common.stat().st_mode & 0o002
    return made if everybody or made.is_dir() else Path("/tmp/jupyter-dlenv-ledger")
