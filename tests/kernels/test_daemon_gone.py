"""A kernel whose Docker daemon is killed under it, with a daemon of the test's own."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import docker_images
import pytest
from clients import environment, notebook

from jupyter_dlenv.engines.registry import load_engine
from jupyter_dlenv.kernels.board import BOARD, Phase

pytestmark = [pytest.mark.docker, pytest.mark.slow]


class Daemon:
    """A Docker daemon without a network, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address = f"unix://{folder}/d.sock"
        # Beside it, as distributions run it: a daemon that starts containerd itself takes it along when it is killed.
        places = [f"--root={folder}/c", f"--state={folder}/cs", f"--address={folder}/c.sock"]
        with open(folder / "containerd.log", "wb") as log:
            self.containerd = subprocess.Popen(["containerd", *places], stdout=log, stderr=log)
        self.start()

    def start(self) -> None:
        """Start it and wait until it answers."""
        options = [f"--data-root={self.folder}/data", f"--exec-root={self.folder}/exec", f"--host={self.address}"]
        options += [f"--containerd={self.folder}/c.sock", f"--pidfile={self.folder}/pid"]
        options += ["--bridge=none", "--iptables=false", "--live-restore"]
        with open(self.folder / "log", "ab") as log:
            # In a network of its own: a daemon without a bridge removes the host's docker0.
            command = ["unshare", "--net", "dockerd", *options]
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        for _ in range(300):
            if subprocess.run(self.client("version"), capture_output=True, check=False).returncode == 0:
                return
            assert self.process.poll() is None, (self.folder / "log").read_text()[-2000:]
            time.sleep(0.1)
        raise AssertionError((self.folder / "log").read_text()[-2000:])

    def client(self, *words: str) -> list[str]:
        """Return a docker command that talks to it."""
        return ["docker", "--host", self.address, *words]

    def load(self, image: str) -> None:
        """Copy an image from the host's own daemon."""
        with subprocess.Popen(["docker", "save", image], stdout=subprocess.PIPE) as source:
            subprocess.run(self.client("load"), stdin=source.stdout, check=True, capture_output=True)

    @contextmanager
    def killed(self) -> Iterator[None]:
        """End it at once, as a crash does, and start it again afterwards."""
        self.process.kill()
        self.process.wait()
        try:
            yield
        finally:
            self.start()

    def stop(self) -> None:
        """End it and its containers."""
        ids = subprocess.run(self.client("ps", "-aq"), capture_output=True, text=True, check=True).stdout.split()
        if ids:
            subprocess.run(self.client("rm", "-f", *ids), capture_output=True, check=True)
        for process in (self.process, self.containerd):
            process.terminate()
            process.wait(60)


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    """A daemon that this process's engine talks to."""
    if os.geteuid() != 0 or shutil.which("dockerd") is None:
        pytest.skip("only root can start a daemon of its own")
    image = docker_images.base_image()
    folder = Path(tempfile.mkdtemp(prefix="dld-", dir="/tmp"))
    mine = Daemon(folder)
    try:
        mine.load(image)
        monkeypatch.setenv("DOCKER_HOST", mine.address)
        load_engine.cache_clear()
        yield mine
    finally:
        load_engine.cache_clear()
        mine.stop()
        subprocess.run(["umount", "--lazy", str(folder / "data")], check=False)  # it mounted its folder on itself
        shutil.rmtree(folder, ignore_errors=True)


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait for a condition."""
    for _ in range(600):
        if condition():
            return
        await asyncio.sleep(0.05)
    raise AssertionError("it did not come true")


async def test_a_kernel_outlives_its_daemon_and_its_death_is_still_told(daemon: Daemon, notebook_dir: Path) -> None:
    environment("orphan", image=docker_images.base_image(), network="none")
    async with notebook("orphan", notebook_dir) as book:
        kernel = str(book.manager.kernel_id)

        def message() -> str:
            report = BOARD.get(kernel)
            return report.message or report.why if report else ""

        with daemon.killed():
            await eventually(lambda: "Docker does not answer" in message())
            assert await book.manager.is_alive()
            assert (await book.run("print(6 * 7)")).text == "42\n"
            book.client.execute("import os; os._exit(3)")
            await eventually(lambda: "Docker is gone" in message())
            report = BOARD.get(kernel)
            assert report is not None
            assert report.phase is Phase.ENDED
            await eventually(lambda: not book.manager.has_kernel)


async def test_a_kernel_is_as_before_when_its_daemon_is_back(daemon: Daemon, notebook_dir: Path) -> None:
    environment("orphan", image=docker_images.base_image(), network="none")
    async with notebook("orphan", notebook_dir) as book:
        kernel = str(book.manager.kernel_id)
        container = subprocess.run(daemon.client("ps", "-q"), capture_output=True, check=True).stdout
        with daemon.killed():
            await eventually(lambda: "Docker does not answer" in getattr(BOARD.get(kernel), "message", ""))
        await eventually(lambda: getattr(BOARD.get(kernel), "message", "?") == "")
        assert subprocess.run(daemon.client("ps", "-q"), capture_output=True, check=True).stdout == container
        assert (await book.run("print(6 * 7)")).text == "42\n"
        assert await book.manager.is_alive()
