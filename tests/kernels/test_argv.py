"""The kernelspec's argv by itself, as clients without provisioners run it."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import time
from pathlib import Path

import docker_images
import pytest
from clients import environment
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.connect import write_connection_file
from jupyter_core.paths import jupyter_data_dir

pytestmark = pytest.mark.docker


def printed(client: BlockingKernelClient, code: str) -> str:
    """Run a cell and return what it printed or raised."""
    texts: list[str] = []

    def output(message: dict[str, dict[str, str]]) -> None:
        texts.append(message["content"].get("text", message["content"].get("ename", "")))

    client.execute_interactive(code, timeout=60, output_hook=output)
    return "".join(texts)


def _wait_until_open(port: int) -> None:
    for _ in range(1200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    pytest.fail("the launcher did not listen")


def test_argv_is_a_complete_launcher(notebook_dir: Path, tmp_path: Path) -> None:
    environment("by-argv", image=docker_images.base_image())
    spec = json.loads((Path(jupyter_data_dir()) / "kernels" / "by-argv" / "kernel.json").read_text())
    file, connection = write_connection_file(str(tmp_path / "connection.json"), ip="127.0.0.1")
    argv = [word.replace("{connection_file}", file) for word in spec["argv"]]
    with subprocess.Popen(argv, cwd=notebook_dir, start_new_session=True) as process:
        try:
            _wait_until_open(connection["shell_port"])
            client = BlockingKernelClient(connection_file=file)
            client.load_connection_file()
            client.start_channels()
            code = "import os; print(os.getcwd(), os.path.exists('/.dockerenv'))"
            assert printed(client, code) == f"{notebook_dir} True\n"
            client.execute("print('asleep', flush=True); import time; time.sleep(600)")
            while client.get_iopub_msg(timeout=60)["content"].get("text") != "asleep\n":
                continue
            process.send_signal(signal.SIGINT)
            assert client.get_shell_msg(timeout=60)["content"]["ename"] == "KeyboardInterrupt"
            assert printed(client, "print('after')") == "after\n"
            client.shutdown()
            assert process.wait(30) == 0
            client.stop_channels()
        finally:
            process.terminate()
    left = docker_images.engine().containers(all=True, filters={"label": "io.jupyter-dlenv.environment=by-argv"})
    assert left == []
