"""A Docker daemon of the tests' own: one that may be killed, or that finds other programs on its PATH."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest


class Daemon:
    """A Docker daemon without a network, in a folder of its own.

    Args:
        env: Variables of the daemon, beside those of this process.
        live_restore: Whether containers go on while it is away.
    """

    def __init__(self, folder: Path, env: Mapping[str, str] | None = None, *, live_restore: bool = True) -> None:
        self.folder = folder
        self._live_restore = live_restore
        self._env = {**os.environ, **(env or {})}
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
        options += ["--bridge=none", "--iptables=false", f"--live-restore={str(self._live_restore).lower()}"]
        with open(self.folder / "log", "ab") as log:
            # In a network of its own: a daemon without a bridge removes the host's docker0.
            command = ["unshare", "--net", "dockerd", *options]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=self._env)
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

    def restart(self) -> None:
        """End it as an administrator does, and start it again."""
        self.process.terminate()
        self.process.wait(60)
        self.start()

    def stop(self) -> None:
        """End it and its containers."""
        ids = subprocess.run(self.client("ps", "-aq"), capture_output=True, text=True, check=True).stdout.split()
        if ids:
            subprocess.run(self.client("rm", "-f", *ids), capture_output=True, check=True)
        for process in (self.process, self.containerd):
            process.terminate()
            process.wait(60)


@contextmanager
def own_daemon(image: str, env: Mapping[str, str] | None = None, *, live_restore: bool = True) -> Iterator[Daemon]:
    """Run a daemon that has this image of the host's daemon; skips the test where it cannot be."""
    if os.geteuid() != 0 or shutil.which("dockerd") is None:
        pytest.skip("only root can start a daemon of its own")
    folder = Path(tempfile.mkdtemp(prefix="dld-", dir="/tmp"))
    mine = Daemon(folder, env, live_restore=live_restore)
    try:
        mine.load(image)
        yield mine
    finally:
        mine.stop()
        subprocess.run(["umount", "--lazy", str(folder / "data")], check=False)  # it mounted its folder on itself
        shutil.rmtree(folder, ignore_errors=True)
