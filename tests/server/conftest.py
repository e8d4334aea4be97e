"""One real server for this folder's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from jupyter_server_process import ServerProcess


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with a notebook folder of its own."""
    base = tmp_path_factory.mktemp("server")
    root: Path = base / "实验 1:a"
    root.mkdir()
    process = ServerProcess(root, base / "server.log")
    process.wait()
    yield process
    process.stop()
