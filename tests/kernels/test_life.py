"""A kernel's life under a real Jupyter server: it outlives the server, explains its death, waits in a pool."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker_images
import pytest
from clients import environment
from jupyter_server_process import ServerProcess
from registry import running_registry
from tornado.httpclient import HTTPRequest
from tornado.websocket import websocket_connect

pytestmark = [pytest.mark.docker, pytest.mark.server]

NAME = "alive"
ASK_JOBS = "from jupyter_dlenv.notebook.client import find_client\nprint(*find_client().call('GET', '/jobs'))"


@pytest.fixture
def image() -> str:
    """An image with nothing but Python."""
    return docker_images.base_image()


@pytest.fixture
def start(notebook_dir: Path, tmp_path: Path, image: str) -> Iterator[Callable[..., ServerProcess]]:
    """Start servers, all of them gone in the end."""
    environment(NAME, image=image)
    servers: list[ServerProcess] = []

    def one(root: Path = notebook_dir, **settings: Any) -> ServerProcess:
        config = tmp_path / f"config-{len(servers)}"
        config.mkdir()
        (config / "jupyter_dlenv_config.json").write_text(json.dumps({"DLEnv": settings}))
        log = tmp_path / f"server-{len(servers)}.log"
        servers.append(ServerProcess(root, log, env={"JUPYTER_CONFIG_DIR": str(config)}))
        servers[-1].wait()
        return servers[-1]

    yield one
    for server in servers:
        if server.process.poll() is None:
            for kernel in server.call("GET", "/api/kernels").json():
                server.call("DELETE", f"/api/kernels/{kernel['id']}")
            server.stop()


def open_notebook(server: ServerProcess, path: str = "book.ipynb", name: str = NAME) -> dict[str, Any]:
    """Start a session as JupyterLab does."""
    body = {"path": path, "name": path.rpartition("/")[2], "type": "notebook", "kernel": {"name": name}}
    reply = server.call("POST", "/api/sessions", body)
    assert reply.status == 201, reply.body
    found: dict[str, Any] = reply.json()
    return found


def run(server: ServerProcess, kernel_id: str, code: str) -> str:
    """Run code in a kernel that is there."""
    return asyncio.run(server.converse(kernel_id, code))


def row(server: ServerProcess, kernel_id: str) -> dict[str, Any]:
    """Return the kernel's row in our list, empty when it is not there."""
    rows = server.api("GET", "/kernels").json()["kernels"]
    return next((item for item in rows if item["id"] == kernel_id), {})


def eventually(condition: Callable[[], Any], timeout_s: float = 60) -> Any:
    """Wait for a true value and return it."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.05)
    return value


def kill(server: ServerProcess) -> None:
    """Kill a server as the kernel of a host short of memory does."""
    server.process.kill()
    server.process.wait()


def container_of(kernel_id: str) -> str:
    """Return the kernel's container, empty when there is none."""
    found = docker_images.engine().containers(all=True, filters={"name": f"dlenv-{kernel_id}-"})
    return str(found[0]["Id"]) if found else ""


def test_a_killed_server_s_kernel_is_found_again_with_its_notebook(start: Callable[..., ServerProcess]) -> None:
    first = start()
    session = open_notebook(first)
    kernel = session["kernel"]["id"]
    run(first, kernel, "x = 41")
    first.call("PATCH", f"/api/sessions/{session['id']}", {"path": "renamed.ipynb"})
    time.sleep(3)  # a rename is noted within two seconds
    container = container_of(kernel)
    kill(first)
    second = start()
    (again,) = second.call("GET", "/api/sessions").json()
    assert (again["id"], again["path"], again["kernel"]["id"]) == (session["id"], "renamed.ipynb", kernel)
    assert run(second, kernel, "print(x + 1)") == "42\n"
    assert container_of(kernel) == container
    assert row(second, kernel)["state"] == "RUNNING"
    assert run(second, kernel, ASK_JOBS) == "jobs\n"  # its job service is there again
    second.call("POST", f"/api/kernels/{kernel}/restart")
    assert "NameError" in run(second, kernel, "x")
    second.call("DELETE", f"/api/kernels/{kernel}")
    assert container_of(kernel) == ""


def test_a_stopped_server_keeps_its_kernels_where_asked(start: Callable[..., ServerProcess]) -> None:
    first = start(keep_kernels="always")
    kernel = open_notebook(first)["kernel"]["id"]
    run(first, kernel, "x = 41")
    first.stop()
    second = start(keep_kernels="always")
    assert [item["path"] for item in second.call("GET", "/api/sessions").json()] == ["book.ipynb"]
    assert run(second, kernel, "print(x + 1)") == "42\n"


def test_a_stopped_server_leaves_nothing(start: Callable[..., ServerProcess]) -> None:
    first = start()
    kernel = open_notebook(first)["kernel"]["id"]
    first.stop()
    assert container_of(kernel) == ""


def test_a_server_that_keeps_none_removes_what_a_killed_one_left(start: Callable[..., ServerProcess]) -> None:
    first = start()
    kernel = open_notebook(first)["kernel"]["id"]
    kill(first)
    second = start(keep_kernels="never")
    assert second.call("GET", "/api/sessions").json() == []
    assert container_of(kernel) == ""


def test_other_servers_kernels_are_not_touched(start: Callable[..., ServerProcess], tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o777)
    living, killed = start(), start(elsewhere)
    mine = open_notebook(living)["kernel"]["id"]
    theirs = open_notebook(killed)["kernel"]["id"]
    run(living, mine, "x = 1")
    kill(killed)
    third = start()  # the living server's own folder, and not the killed one's
    assert third.call("GET", "/api/kernels").json() == []
    assert run(living, mine, "print(x)") == "1\n"
    assert container_of(theirs)
    fourth = start(elsewhere)
    assert [item["id"] for item in fourth.call("GET", "/api/kernels").json()] == [theirs]


def test_a_death_is_explained_once_and_the_kernel_comes_back(start: Callable[..., ServerProcess]) -> None:
    server = start()
    kernel = open_notebook(server)["kernel"]["id"]
    began = time.time()
    shown = run(server, kernel, "import os\nprint('last words', flush=True)\nos.kill(os.getpid(), 9)")
    assert "Killed from outside (SIGKILL)" in shown
    assert "last words" in shown
    dead = eventually(lambda: row(server, kernel).get("ended_at") and row(server, kernel))
    assert dead["ended_at"] == pytest.approx(began, abs=30)
    assert "SIGKILL" in dead["message"]
    assert "last words" in dead["last_lines"]
    eventually(lambda: row(server, kernel)["state"] == "RUNNING")
    assert run(server, kernel, "print(6 * 7)") == "42\n"
    assert server.log.read_text().count("Killed from outside (SIGKILL)") == 1


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import ctypes; ctypes.string_at(0)", "crashed in native code"),
        ("import os; os.write(1, b'x'); print('[Errno 28] No space left on device'); os._exit(1)", "disk is full"),
        ("import os; os._exit(7)", "Exit code 7"),
    ],
)
def test_each_end_has_its_words(start: Callable[..., ServerProcess], code: str, words: str) -> None:
    server = start()
    assert words in run(server, open_notebook(server)["kernel"]["id"], code)


def test_out_of_memory_names_limit_and_peak(start: Callable[..., ServerProcess], image: str) -> None:
    environment(NAME, image=image, memory="200m")
    server = start()
    shown = run(server, open_notebook(server)["kernel"]["id"], "b = bytearray(1 << 30)")
    assert "Out of memory: its limit is 200.0 MiB, its peak was 200.0 MiB" in shown
    assert f"jupyter dlenv env add {NAME}" in shown


def test_a_container_removed_from_outside_is_named(start: Callable[..., ServerProcess]) -> None:
    server = start()
    kernel = open_notebook(server)["kernel"]["id"]
    docker_images.engine().remove_container(container_of(kernel), force=True)
    assert "removed from outside" in eventually(lambda: row(server, kernel).get("message"))
    eventually(lambda: row(server, kernel)["state"] == "RUNNING")


def test_a_kernel_can_be_shut_down_at_any_moment_after_its_death(start: Callable[..., ServerProcess]) -> None:
    server = start()
    for delay_s in (0, 0.5, 3, 3.2, 3.5, 4):
        kernel = open_notebook(server)["kernel"]["id"]
        docker_images.engine().kill(container_of(kernel), signal.SIGKILL)
        time.sleep(delay_s)
        # jupyter_client 8.10 answers 500 while it restarts a kernel: it asks a future that has no result yet.
        eventually(lambda kernel=kernel: server.call("DELETE", f"/api/kernels/{kernel}").status in (204, 404))
        eventually(lambda kernel=kernel: container_of(kernel) == "")
        assert row(server, kernel) == {}


def test_a_kernel_that_always_dies_is_given_up(start: Callable[..., ServerProcess], image: str) -> None:
    environment("doomed", image=image)  # its home keeps what kills its kernels
    server = start()
    kernel = open_notebook(server, name="doomed")["kernel"]["id"]
    code = (
        "import os, pathlib\n"
        "folder = pathlib.Path(os.path.expanduser('~/.ipython/profile_default/startup'))\n"
        "folder.mkdir(parents=True, exist_ok=True)\n"
        "(folder / 'die.py').write_text('import os; os._exit(9)')\n"
        "os._exit(9)"
    )
    run(server, kernel, code)
    eventually(lambda: "restart failed" in server.log.read_text(), 120)
    assert row(server, kernel)["state"] == "FAILED"


def test_interrupts_are_prompt(start: Callable[..., ServerProcess]) -> None:
    server = start()
    kernel = open_notebook(server)["kernel"]["id"]
    c_loop = "import re; re.match(r'(a+)+$', 'a' * 60 + 'b')"
    for code in ("import time\ntime.sleep(600)", c_loop, "while True: pass", "input('name? ')"):
        text = asyncio.run(server.converse(kernel, code, after=lambda: interrupt(server, kernel)))
        assert "KeyboardInterrupt" in text
    assert run(server, kernel, "print(1)") == "1\n"


def interrupt(server: ServerProcess, kernel: str) -> None:
    assert server.call("POST", f"/api/kernels/{kernel}/interrupt").status == 204


def test_a_restart_keeps_the_container_where_asked(start: Callable[..., ServerProcess]) -> None:
    server = start(restart_keeps_container=True)
    kernel = open_notebook(server)["kernel"]["id"]
    container = container_of(kernel)
    run(server, kernel, "open('/tmp/kept', 'w').write('here'); x = 1")
    server.call("POST", f"/api/kernels/{kernel}/restart")
    assert run(server, kernel, "print(open('/tmp/kept').read(), 'x' in dir())") == "here False\n"
    assert container_of(kernel) == container
    run(server, kernel, "import os; os._exit(1)")
    eventually(lambda: row(server, kernel)["state"] == "RUNNING")
    assert run(server, kernel, "print(open('/tmp/kept').read())") == "here\n"


def pool_of(server: ServerProcess) -> dict[str, Any]:
    """Return what the environment's pool holds."""
    rows = server.api("GET", "/environments").json()["environments"]
    return dict(next(item for item in rows if item["name"] == NAME).get("pool_status") or {})


def waiting_containers() -> set[str]:
    """Return the containers of this test's environment."""
    label = {"label": f"io.jupyter-dlenv.environment={NAME}"}
    return {item["Id"] for item in docker_images.engine().containers(filters=label)}


def test_a_pooled_kernel_is_claimed(start: Callable[..., ServerProcess], image: str, notebook_dir: Path) -> None:
    before = waiting_containers()
    environment(NAME, image=image, pool=1)
    (notebook_dir / "sub").mkdir()
    (notebook_dir / "sub").chmod(0o777)
    server = start()
    eventually(lambda: pool_of(server).get("ready") == 1)
    (waiting,) = waiting_containers() - before
    assert NAME not in {each["environment"] for each in server.api("GET", "/kernels").json()["kernels"]}
    kernel = open_notebook(server, "sub/book.ipynb")["kernel"]["id"]
    assert container_of(kernel) == waiting
    code = "import os; print(os.getcwd()); print(os.environ['JPY_SESSION_NAME']); open('made', 'w').close()"
    assert run(server, kernel, code).splitlines() == [
        str(notebook_dir / "sub"),
        str(notebook_dir / "sub" / "book.ipynb"),
    ]
    assert run(server, kernel, ASK_JOBS) == "jobs\n"
    assert row(server, kernel)["state"] == "RUNNING"
    eventually(lambda: pool_of(server).get("ready") == 1)
    server.call("POST", f"/api/kernels/{kernel}/restart")
    assert run(server, kernel, "import os; print(os.getcwd())").strip() == str(notebook_dir / "sub")
    environment(NAME, image=image, pool=0)
    eventually(lambda: waiting_containers() - before == {container_of(kernel)})
    environment(NAME, image=image, pool=2, memory="1g")
    eventually(lambda: pool_of(server).get("ready") == 2)
    server.stop()
    assert waiting_containers() - before == set()


def test_what_waited_in_a_killed_server_s_pool_is_removed(start: Callable[..., ServerProcess], image: str) -> None:
    before = waiting_containers()
    environment(NAME, image=image, pool=1)
    first = start()
    eventually(lambda: pool_of(first).get("ready") == 1)
    left = waiting_containers() - before
    kill(first)
    environment(NAME, image=image, pool=0)
    start()
    assert not left & waiting_containers()


async def states_of(server: ServerProcess, work: Callable[[], Any]) -> list[str]:
    """Return the states that Jupyter's events tell of until a kernel is ready."""
    address = f"{server.url.replace('http', 'ws', 1)}/api/events/subscribe"
    channel = await websocket_connect(HTTPRequest(address, headers={"Authorization": f"token {server.token}"}))
    task = asyncio.create_task(asyncio.to_thread(work))
    states: list[str] = []
    while states[-1:] != ["ready"]:
        event = json.loads(str(await asyncio.wait_for(channel.read_message(), 120)))
        if event["schema_id"].endswith("/jupyter_dlenv/kernel_state/v1"):
            states.append(event["state"])
    await task
    channel.close()
    return states


def test_launch_states_are_events(start: Callable[..., ServerProcess]) -> None:
    server = start()
    states = asyncio.run(states_of(server, lambda: open_notebook(server)))
    assert [state for state in states if state != "pulling"] == ["queued", "creating", "starting", "ready"]


def test_a_pull_is_a_state_of_its_own(start: Callable[..., ServerProcess], tmp_path: Path) -> None:
    with running_registry(tmp_path / "registry") as address:
        reference = f"{address}/lab/bare:1"
        environment(NAME, image=reference)
        server = start(pull="missing")
        try:
            states = asyncio.run(states_of(server, lambda: open_notebook(server)))
        finally:
            docker_images.engine().remove_image(reference, force=True)
    assert states[:2] == ["queued", "pulling"]
    assert states[-3:] == ["creating", "starting", "ready"]


def test_an_idle_kernel_is_culled_by_jupyter_s_own_setting(
    notebook_dir: Path, tmp_path: Path, start: Callable[..., ServerProcess]
) -> None:
    config = tmp_path / "culling"
    config.mkdir()
    culling = {"MappingKernelManager": {"cull_idle_timeout": 1, "cull_interval": 1}}
    (config / "jupyter_server_config.json").write_text(json.dumps(culling))
    server = ServerProcess(notebook_dir, tmp_path / "culling.log", env={"JUPYTER_CONFIG_DIR": str(config)})
    try:
        server.wait()
        kernel = server.call("POST", "/api/kernels", {"name": NAME, "path": ""}).json()["id"]
        assert container_of(kernel)
        eventually(lambda: server.call("GET", "/api/kernels").json() == [])
        assert container_of(kernel) == ""
    finally:
        server.stop()


def test_the_kernel_of_a_killed_server_ends_when_nobody_comes(start: Callable[..., ServerProcess]) -> None:
    server = start(kernel_grace=2)
    kernel = open_notebook(server)["kernel"]["id"]
    container = container_of(kernel)
    os.kill(server.process.pid, signal.SIGKILL)
    server.process.wait()
    assert docker_images.engine().wait(container, timeout=60)["StatusCode"] != 0
    docker_images.engine().remove_container(container, force=True)
