"""``%dlrun`` in a kernel on the host: with a server through its socket, without one embedded."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import docker_images
import pytest
from clients import Notebook, environment, notebook
from jupyter_server_process import ServerProcess

from jupyter_dlenv.notebook.follow import MIME

Write = Callable[[str, str], Path]
SCRIPT = "import sys\nprint('args', sys.argv[1:])\n"


@pytest.fixture
async def host(notebook_dir: Path, write: Write) -> AsyncIterator[Notebook]:
    """An ordinary kernel of this host, started without a server."""
    write("a.py", SCRIPT)
    async with notebook("python3", notebook_dir) as book:
        assert (await book.run("%load_ext jupyter_dlenv")).status == "ok"
        yield book


async def test_without_a_server_the_kernel_serves_itself(host: Notebook) -> None:
    result = await host.run("%dlrun a.py -- x")
    assert result.status == "ok", result
    assert "plain processes, no container" in result.shown.splitlines()[0]
    assert result.shown.splitlines()[-1] == "args ['x']"
    assert result.displays[-1][MIME]["state"] == "SUCCEEDED"


@pytest.mark.docker
async def test_without_a_server_an_image_can_be_named(host: Notebook) -> None:
    result = await host.run(f"%dlrun a.py --image {docker_images.base_image()} -- y")
    assert result.status == "ok", result
    assert docker_images.base_image() in result.shown.splitlines()[0]
    assert result.shown.splitlines()[-1] == "args ['y']"


async def test_the_process_engine_says_what_it_lacks(host: Notebook) -> None:
    result = await host.run("%dlrun a.py --memory 1g")
    assert "without a container, so --memory has no meaning" in result.error
    result = await host.run("%dlrun a.py --gpus 2")
    assert "has no GPU" in result.error


async def test_a_kernel_of_the_process_engine_lives_the_same_life(notebook_dir: Path, write: Write) -> None:
    write("a.py", SCRIPT)
    environment("plain", engine="process")
    async with notebook("plain", notebook_dir) as book:
        assert (await book.run("%dlrun a.py --plain")).text == "args []\n"
        before = book.manager.get_connection_info()
        await book.run("x = 1")
        await book.manager.restart_kernel()
        await book.client.wait_for_ready(timeout=60)
        assert book.manager.get_connection_info() == before
        assert (await book.run("print('x' in dir())")).text == "False\n"
        folder = Path(str(before["ip"])).parent
    assert not folder.exists()


@pytest.mark.server
def test_beside_a_server_its_socket_is_used(notebook_dir: Path, write: Write, tmp_path: Path) -> None:
    write("a.py", SCRIPT)
    server = ServerProcess(notebook_dir, tmp_path / "log")
    try:
        server.wait()
        text = server.execute("python3", "%load_ext jupyter_dlenv\n%dlrun a.py --plain -- z")
        assert "args ['z']" in text
        (job,) = [job for job in server.api("GET", "/jobs").json()["jobs"] if job["command"] == "a.py z"]
        assert (job["engine"], job["state"]) == ("process", "SUCCEEDED")
    finally:
        server.stop()


def kernels_of(server: ServerProcess, environment: str) -> list[dict[str, Any]]:
    """Return the kernels of an environment that the server lists, among those of other servers of this user."""
    listed = server.api("GET", "/kernels").json()["kernels"]
    return [kernel for kernel in listed if kernel["environment"] == environment]


@pytest.mark.server
@pytest.mark.docker
def test_a_server_starts_container_kernels_and_lists_them(notebook_dir: Path, write: Write, tmp_path: Path) -> None:
    write("a.py", SCRIPT)
    server = ServerProcess(notebook_dir, tmp_path / "log")
    try:
        server.wait()
        body = {"image": docker_images.base_image()}
        assert server.api("PUT", "/environments/served", body).status == 200
        text = server.execute("served", "%dlrun a.py --plain -- w\nimport os; print(os.getcwd())", keep=True)
        assert "args ['w']" in text
        assert str(notebook_dir) in text
        (kernel,) = kernels_of(server, "served")
        assert server.call("DELETE", f"/api/kernels/{kernel['id']}").status == 204
        assert kernels_of(server, "served") == []
        refused = server.call("POST", "/api/kernels", {"name": "served", "kernel_id": "../../x"})
        assert refused.status >= 400
        missing = {"image": "dlenv-test/nowhere:1"}
        assert server.api("PUT", "/environments/missing", missing).status == 200
        answer = server.call("POST", "/api/kernels", {"name": "missing"})
        assert answer.status == 404
        assert "images pull dlenv-test/nowhere:1" in answer.json()["message"]
    finally:
        server.stop()


def test_plain_ipython_prints_lines(notebook_dir: Path, write: Write) -> None:
    write("a.py", SCRIPT)
    code = "%load_ext jupyter_dlenv\n%dlrun a.py -- t\n"
    argv = [sys.executable, "-m", "IPython", "--no-banner", "--colors=nocolor", "--simple-prompt"]
    done = subprocess.run(argv, input=code, capture_output=True, text=True, cwd=notebook_dir, timeout=120, check=False)
    assert "args ['t']" in done.stdout, done
