"""Shims that work on one run folder, as their containers would start them."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest

from jupyter_dlenv.engines.folder import RunFolder, ShimResult
from jupyter_dlenv.engines.shim import FOLDER

T = TypeVar("T")

PATIENCE_S = 60


def until(check: Callable[[], T], what: str, patience_s: float = PATIENCE_S, pause_s: float = 0.01) -> T:
    """Return the first true value of ``check``."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        found = check()
        if found:
            return found
        time.sleep(pause_s)
    pytest.fail(f"waited in vain for {what}")


@contextmanager
def mounted_disk(folder: Path, size: str) -> Iterator[Path]:
    """Mount a disk of a size such as ``1m``, made in a folder, and yield where it is."""
    path = folder / "disk"
    path.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", path], capture_output=True, check=False
    )
    if mount.returncode:
        pytest.skip("needs the right to mount")
    yield path
    subprocess.run(["umount", "--lazy", path], check=True)


def python(code: str, *args: str) -> list[str]:
    """Return a command that runs a piece of Python."""
    return [sys.executable, "-c", code, *args]


@dataclass
class Shims:
    """A run folder, and the shims of its replicas."""

    folder: RunFolder
    replicas: int = 1
    running: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)

    def prepare(self, index: int, argv: list[str] | None = None, **launch: Any) -> None:
        """Write what a replica runs."""
        defaults = {"cwd": "/", "env": {"PYTHONUNBUFFERED": "1"}, "grace_s": (0.5, 0.5), "first_rank": index}
        launch = {**defaults, "replicas": self.replicas, "node_rank": index, **launch}
        self.folder.node(index).write_launch(argv or [], **launch)

    def start(self, *indices: int, inherited: tuple[int, ...] = ()) -> None:
        """Start shims, all without arguments."""
        for index in indices or range(self.replicas):
            command = [sys.executable, "-I", "-S", FOLDER, str(self.folder.path), str(index)]
            self.running[index] = subprocess.Popen(command, start_new_session=True, pass_fds=inherited)

    def finish(self) -> list[ShimResult]:
        """Return how each replica ended, which agrees with the exit codes of the shims."""
        codes = [self.running[index].wait(PATIENCE_S) for index in range(self.replicas)]
        results = [result for result in self.folder.results(self.replicas) if result]
        assert [result.exit_code for result in results] == codes
        return results

    def says(self, text: bytes) -> None:
        """Wait until the log has a text."""
        until(lambda: text in self.log, f"{text!r} in the log")

    @property
    def log(self) -> bytes:
        path = self.folder.path / "log"
        return path.read_bytes() if path.exists() else b""

    @property
    def lines(self) -> list[str]:
        return self.log.decode().splitlines()

    def end(self) -> None:
        """End what still runs."""
        self.folder.request_stop(kill=True)
        for process in self.running.values():
            process.wait(PATIENCE_S)
