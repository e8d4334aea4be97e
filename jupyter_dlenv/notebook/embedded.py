"""The job API in a process of its own: IPython, nbclient's host kernels and the command line, with no server."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

from ..jobs.principal import Principal
from ..paths import API_SOCKET
from ..server.sockets import serve_jobs
from ..settings import load_settings


def serve() -> str:
    """Listen on a private socket for this process's own user and return its path; it goes with the process."""
    settings = load_settings()
    folder = Path(tempfile.mkdtemp(prefix="dlenv-"))
    listener = serve_jobs(folder / API_SOCKET, Principal(settings.owner), settings, None)
    process = os.getpid()

    def stop() -> None:
        if os.getpid() == process:  # a forked child of the notebook must not take the socket away
            listener.close()
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(stop)
    return str(listener.path)
