"""A JupyterLab server of its own: no folder, setting, kernel or port is shared with another one."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 30
# Straight to 127.0.0.1, whatever proxy the environment names.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class LabServer:
    """A running server.

    Attributes:
        url: Its address with the trailing slash.
        root: Its notebook folder.
    """

    url: str
    token: str
    root: Path

    def call(self, method: str, path: str, body: object = None) -> Any:
        """Return the JSON answer of a request below the base URL, None for an empty one.

        Raises:
            urllib.error.HTTPError: The status is an error.
        """
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"token {self.token}", "Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        with _OPENER.open(request, timeout=STOP_TIMEOUT_S) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def api(self, method: str, path: str, body: object = None) -> Any:
        """Return the JSON answer of ``dlenv/api/v1/PATH``."""
        return self.call(method, f"dlenv/api/v1/{path}", body)

    def submit(self, script: str, source: str, **more: object) -> Any:
        """Write a script into the notebook folder, run it as a plain process and return the job."""
        (self.root / script).write_text(source, encoding="utf-8")
        body = {"request_id": str(uuid.uuid4()), "script": script, "cwd": str(self.root), "engine": "process"}
        return self.api("POST", "jobs", {**body, "python": sys.executable, **more})

    def page(self, path: str = "") -> str:
        """Return the address of JupyterLab with an empty workspace, or of a document in it."""
        document = f"/tree/{quote(path)}" if path else ""
        return f"{self.url}lab{document}?reset&token={self.token}"


@contextmanager
def running_lab(settings: dict[str, object] | None = None) -> Iterator[LabServer]:
    """Run ``jupyter lab`` with JupyterLab's settings (plugin id to value) and stop it in the end."""
    world = Path(tempfile.mkdtemp(prefix="dlb-", dir="/tmp"))
    lab = LabServer(f"http://127.0.0.1:{_free_port()}/", secrets.token_hex(16), world / "notebooks")
    lab.root.mkdir()
    _write_settings(world, settings or {})
    _write_config(world)
    log = world / "log"
    try:
        with (
            log.open("wb") as file,
            subprocess.Popen(
                _command(lab), env=_environment(world), cwd=lab.root, stdin=subprocess.DEVNULL, stdout=file, stderr=file
            ) as process,
        ):
            try:
                _wait_until_ready(lab, process, log)
                yield lab
            finally:
                _stop(process)
    finally:
        shutil.rmtree(world, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _environment(world: Path) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("JUPYTER", "JPY_", "DLENV"))}
    folders = {f"JUPYTER_{name}_DIR": str(world / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")}
    folders |= {f"JUPYTERLAB_{name}_DIR": str(world / name.lower()) for name in ("SETTINGS", "WORKSPACES")}
    return {**kept, **folders, "IPYTHONDIR": str(world / "ipython"), "XDG_RUNTIME_DIR": str(world)}


def _write_settings(world: Path, settings: dict[str, object]) -> None:
    news = {"@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False}}
    for plugin, value in {**news, **settings}.items():
        package, name = plugin.split(":")
        path = world / "settings" / package / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value), encoding="utf-8")


def _write_config(world: Path) -> None:
    """An owner of its own: containers of other servers on this host are not seen."""
    (world / "config").mkdir()
    config = {"DLEnv": {"owner": world.name}}
    (world / "config" / "jupyter_dlenv_config.json").write_text(json.dumps(config), encoding="utf-8")


def _command(lab: LabServer) -> list[str]:
    port = lab.url.rstrip("/").rpartition(":")[2]
    return [
        *(sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", f"--port={port}"),
        *("--ServerApp.port_retries=0", f"--IdentityProvider.token={lab.token}"),
        *(f"--ServerApp.root_dir={lab.root}", "--LabApp.extension_manager=readonly"),
        *(["--allow-root"] if os.geteuid() == 0 else []),
    ]


def _wait_until_ready(lab: LabServer, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            lab.call("GET", "api/status")
            return
        except urllib.error.URLError:
            time.sleep(0.1)
    raise RuntimeError("JupyterLab did not start:\n" + log.read_text(encoding="utf-8", errors="replace")[-5000:])


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
