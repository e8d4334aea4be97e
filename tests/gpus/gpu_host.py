"""A host with GPUs, as far as its processes can tell: the stand-in for NVML, and a daemon with the toolkit's hook."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker_images
from gpu_daemon import GpuDaemon
from jupyter_server_process import ServerProcess
from nvml_machine import Machine

PATIENCE_S = 150


class GpuHost:
    """Runs the command line and Jupyter servers of a person on such a host.

    Args:
        daemon: None for a host whose jobs are plain processes.

    Attributes:
        root: The notebook folder.
    """

    def __init__(self, folder: Path, daemon: GpuDaemon | None, machine: Machine, **settings: Any) -> None:
        self._daemon, self.machine = daemon, machine
        self.root = folder / "notebooks"
        self.ledger = folder / "ledger"
        for name in ("data", "config", "runtime", "notebooks", "notebooks/.dlenv"):
            (folder / name).mkdir(mode=0o700)
        _share_runtimes(folder / "data" / "dlenv")
        self.settings(**settings)
        places = {f"JUPYTER_{name.upper()}_DIR": str(folder / name) for name in ("data", "config", "runtime")}
        address = {"DOCKER_HOST": daemon.address} if daemon else {}
        self.env = {**os.environ, **machine.env(), **places, **address}
        self._started: list[subprocess.Popen[str]] = []
        if daemon:
            self.add("gpu", "--gpus", "1")

    @property
    def daemon(self) -> GpuDaemon:
        """The daemon of a host that has one."""
        assert self._daemon is not None
        return self._daemon

    def settings(self, **chosen: Any) -> None:
        """Set what an administrator sets, beside the place of the ledger."""
        values = {"DLEnv": {"ledger_dir": str(self.ledger), **chosen}}
        (self.root.parent / "config" / "jupyter_dlenv_config.json").write_text(json.dumps(values))

    def add(self, name: str, *words: str) -> None:
        """Write an environment; the daemon of the tests has no network to give."""
        image = docker_images.base_image()
        self.cli("env", "add", name, "--image", image, "--network", "none", *words)

    def cli(self, *words: str, fails: bool = False) -> str:
        """Run ``jupyter dlenv`` and return what it prints; with ``fails`` what it complains about."""
        argv = [sys.executable, "-m", "jupyter_dlenv", *words]
        done = subprocess.run(
            argv, cwd=self.root, env=self.env, capture_output=True, text=True, timeout=180, check=False
        )
        assert (done.returncode != 0) == fails, f"{words}: {done.stdout}{done.stderr}"
        return done.stderr if fails else done.stdout

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Run ``jupyter dlenv`` beside the test."""
        argv = [sys.executable, "-m", "jupyter_dlenv", *words]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        process = subprocess.Popen(argv, cwd=self.root, env=self.env, preexec_fn=_hear_interrupts, **pipes)
        self._started.append(process)
        return process

    def run(self, script: str, *words: str, image: str = "") -> list[str]:
        """Return the words of a run."""
        (self.root / "job.py").write_text(script)
        options = ["--image", image or docker_images.base_image(), "--network", "none", "--launcher", "python"]
        return ["run", "job.py", *options, *words]

    def gpus(self) -> dict[str, Any]:
        """Return what ``jupyter dlenv gpus`` tells."""
        return dict(json.loads(self.cli("gpus", "--json")))

    def holders(self) -> dict[str, list[str]]:
        """Return the names of holders by the index of the GPU, for GPUs that have some."""
        rows = self.gpus()["gpus"]
        return {row["index"]: [each["name"] for each in row["holders"]] for row in rows if row["holders"]}

    def jobs(self) -> dict[str, dict[str, Any]]:
        """Return the jobs by name."""
        return {job["name"]: job for job in json.loads(self.cli("jobs", "--json"))}

    def server(self, app: str = "server") -> ServerProcess:
        """Start a Jupyter server of this host; it may take a while until it answers."""
        return ServerProcess(self.root, self.root.parent / "server.log", app=app, env=self.env)

    def end(self) -> None:
        """End what was started and is still there."""
        for process in self._started:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
        if self._daemon is not None:
            self._daemon.clear()


def _hear_interrupts() -> None:
    """Undo what a shell does to what it starts in the background."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _share_runtimes(data: Path) -> None:
    """Let a host use the kernel runtimes of the whole session; to make one takes longer than most tests."""
    common = Path(os.environ["JUPYTER_DATA_DIR"], "dlenv", "runtimes")
    common.mkdir(mode=0o700, parents=True, exist_ok=True)
    data.mkdir(mode=0o700)
    (data / "runtimes").symlink_to(common)


@contextmanager
def gpu_host(folder: Path, daemon: GpuDaemon | None, machine: Machine, **settings: Any) -> Iterator[GpuHost]:
    """Make one, and end what runs on it."""
    host = GpuHost(folder, daemon, machine, **settings)
    try:
        yield host
    finally:
        host.end()


def until(look: Callable[[], Any], what: str = "") -> Any:
    """Return what a look finds, as soon as it finds something."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        found = look()
        if found:
            return found
        time.sleep(0.2)
    raise AssertionError(what or "it did not happen")
