"""The job API in a process of its own: IPython, nbclient's host kernels and the command line, with no server."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path
from typing import Optional

from ..jobs.agent import leave_waiting
from ..jobs.principal import Principal
from ..paths import API_SOCKET, SOCKET_PATH_BYTES, kernels_dir
from ..server.sockets import serve_jobs
from ..settings import load_settings


def serve() -> str:
    """Listen on a private socket for this process's own user and return its path; it goes with the process."""
    settings = load_settings()
    folder = Path(tempfile.mkdtemp(prefix="dlenv-", dir=_short_folder()))
    listener = serve_jobs(folder / API_SOCKET, Principal(settings.owner), settings, None)
    process = os.getpid()

    def stop() -> None:
        if os.getpid() == process:  # a forked child of the notebook must not take the socket away
            leave_waiting()
            listener.close()
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(stop)
    return str(listener.path)


def _short_folder() -> Optional[str]:
    """Return where a socket's path fits: None for the usual place, which schedulers and CI make long."""
    longest = os.path.join(tempfile.gettempdir(), "dlenv-12345678", ".12345678.sock")
    return None if len(os.fsencode(longest)) <= SOCKET_PATH_BYTES else str(kernels_dir().parent)
