"""A real registry on the loopback, which Docker trusts without TLS."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import docker_images
import pytest

CONFIG = """
version: 0.1
storage: {{filesystem: {{rootdirectory: {root}}}}}
http: {{addr: 127.0.0.1:{port}}}
"""


@contextmanager
def running_registry(folder: Path) -> Iterator[str]:
    """Yield a registry's address, with the bare image in it as ``lab/bare:1``.

    Args:
        folder: Where it keeps everything.
    """
    program = shutil.which("docker-registry")
    if program is None:
        pytest.skip("no docker-registry: apt-get install docker-registry")
    folder.mkdir(exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (folder / "config.yml").write_text(CONFIG.format(root=folder / "data", port=port))
    with (
        open(folder / "log", "wb") as log,
        subprocess.Popen([program, "serve", str(folder / "config.yml")], stdout=log, stderr=log) as process,
    ):
        try:
            address = f"127.0.0.1:{port}"
            client = docker_images.engine()
            client.tag(docker_images.base_image(), f"{address}/lab/bare", "1")
            _push(f"{address}/lab/bare", folder / "log")
            client.remove_image(f"{address}/lab/bare:1")
            yield address
        finally:
            process.terminate()


def _push(repository: str, log: Path) -> None:
    for _ in range(50):
        answers = list(docker_images.engine().push(repository, tag="1", stream=True, decode=True))
        if not any("error" in answer for answer in answers):
            return
        time.sleep(0.2)
    pytest.fail(log.read_text())
