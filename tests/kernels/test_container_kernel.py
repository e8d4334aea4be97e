"""A kernel in a container of an image that holds nothing but Python, by real clients."""

from __future__ import annotations

import asyncio
import grp
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import docker_images
import nbformat
import pytest
from clients import Notebook, environment, notebook
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

from jupyter_dlenv.errors import DLEnvError, ImageNotFound, InvalidRequest, StartFailed, UnusableImage
from jupyter_dlenv.kernels import records
from jupyter_dlenv.kernels.environments import EnvironmentManager
from jupyter_dlenv.kernels.sweep import sweep
from jupyter_dlenv.paths import kernel_dir

ID = "5ab4c0de-0000-4000-8000-0000000000bb"
pytestmark = pytest.mark.docker


@pytest.fixture
def bare() -> str:
    """The environment of a bare image."""
    environment("bare", image=docker_images.base_image())
    return "bare"


def containers(kernel_id: str) -> list[str]:
    """Return the containers of one kernel."""
    wanted = {"label": f"io.jupyter-dlenv.kernel={kernel_id}"}
    return [item["Id"] for item in docker_images.engine().containers(all=True, filters=wanted)]


async def test_a_kernel_lives_in_the_image_as_its_user(bare: str, notebook_dir: Path) -> None:
    os.chown(notebook_dir, 4321, 4321) if os.geteuid() == 0 else None
    uid = notebook_dir.stat().st_uid
    async with notebook(bare, notebook_dir) as book:
        code = (
            "import os, sys, getpass, json, pwd\n"
            "open('made.txt', 'w').write('x')\n"
            "print(json.dumps([os.getcwd(), os.getuid(), sys.executable, pwd.getpwuid(os.getuid()).pw_uid,\n"
            "  os.path.exists('/.dockerenv'), os.path.expanduser('~')]))"
        )
        cwd, user, executable, entry, inside, home = json.loads((await book.run(code)).text)
        assert (cwd, user, entry) == (str(notebook_dir), uid, uid)
        assert (executable, inside, home) == ("/usr/bin/python3", True, "/dlenv/home")
        assert (notebook_dir / "made.txt").stat().st_uid == uid


async def test_supplementary_groups_pass_but_never_docker_s(bare: str, notebook_dir: Path) -> None:
    async with notebook(bare, notebook_dir) as book:
        inside = set(json.loads((await book.run("import json, os; print(json.dumps(os.getgroups()))")).text))
    mine = set(os.getgroups()) if os.geteuid() else set()
    names = {gid: grp.getgrgid(gid).gr_name for gid in mine}
    assert inside - {notebook_dir.stat().st_gid} == {gid for gid in mine if names[gid] != "docker"} - {os.getegid()}


async def test_the_container_is_confined(bare: str, notebook_dir: Path) -> None:
    async with notebook(bare, notebook_dir) as book:
        (container,) = containers(book.manager.kernel_id)
        found = docker_images.engine().inspect_container(container)
        host = found["HostConfig"]
        assert host["CapDrop"] == ["ALL"]
        assert not host["PortBindings"]
        assert not found["Config"].get("ExposedPorts")
        text = (await book.run("print(open('/proc/self/status').read())")).text
        assert "NoNewPrivs:\t1" in text
        assert "CapEff:\t0000000000000000" in text
        environment_text = (await book.run("import os; print(sorted(os.environ))")).text
        assert "NVIDIA_VISIBLE_DEVICES" in environment_text
        for name in ("JPY_PARENT_PID", "MPLBACKEND", "SSH_AUTH_SOCK", "PYTEST_CURRENT_TEST"):
            assert name not in environment_text
        key = book.manager.session.key.decode()
        assert key not in json.dumps(found)


async def test_interrupt_restart_and_shutdown(bare: str, notebook_dir: Path) -> None:
    async with notebook(bare, notebook_dir) as book:
        before = book.manager.get_connection_info()
        task = asyncio.create_task(book.run("import time\nprint('go', flush=True)\ntime.sleep(600)"))
        await asyncio.sleep(1)
        await book.manager.interrupt_kernel()
        assert "KeyboardInterrupt" in (await task).error
        await book.run("x = 1")
        first = containers(book.manager.kernel_id)
        await book.manager.restart_kernel()
        await book.client.wait_for_ready(timeout=60)
        assert book.manager.get_connection_info() == before
        assert (await book.run("print('x' in dir())")).text == "False\n"
        second = containers(book.manager.kernel_id)
        assert len(second) == 1
        assert second != first
        kernel_id = book.manager.kernel_id
    assert containers(kernel_id) == []
    assert not kernel_dir(kernel_id).exists()


async def test_input_and_widgets(bare: str, notebook_dir: Path) -> None:
    async with notebook(bare, notebook_dir) as book:
        assert (await book.run("print(input('name? ').upper())", answer="ada")).text == "ADA\n"
        result = await book.run("import ipywidgets\nipywidgets.IntSlider(value=3)")
        assert "application/vnd.jupyter.widget-view+json" in result.displays[-1]


async def test_pip_install_belongs_to_the_user_and_survives(bare: str, notebook_dir: Path, tmp_path: Path) -> None:
    package = notebook_dir / "thing"
    package.mkdir()
    (package / "pyproject.toml").write_text('[project]\nname = "thing"\nversion = "1"\n')
    (package / "thing.py").write_text("VALUE = 42\n")
    async with notebook(bare, notebook_dir) as book:
        await book.run("%pip install -q --no-build-isolation --no-index ./thing")
        installed = await book.run("import thing; print(thing.VALUE, thing.__file__)")
        assert installed.text.startswith("42 /dlenv/packages/"), installed
        await book.manager.restart_kernel()
        await book.client.wait_for_ready(timeout=60)
        assert (await book.run("import thing; print(thing.VALUE)")).text == "42\n"
        assert (await book.run("!python3 -c 'import thing; print(thing.VALUE)'")).text.strip() == "42"


async def test_credentials_are_hidden_where_home_is_the_notebook_folder(
    notebook_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = notebook_dir
    for name in (".ssh", ".docker", ".aws"):
        (home / name).mkdir()
        (home / name / "secret").write_text("s3cr3t")
    (home / ".netrc").write_text("s3cr3t")
    (home / "runtime").mkdir(mode=0o700)
    (home / "runtime" / "jpserver-1.json").write_text('{"token": "s3cr3t"}')
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(home / "runtime"))
    environment("home", image=docker_images.base_image())
    async with notebook("home", home) as book:
        text = (await book.run("!grep -r s3cr3t . 2>/dev/null; ls -A .ssh runtime; echo done")).text
        assert "s3cr3t" not in text
        assert "secret" not in text
        assert "jpserver" not in text
        assert "done" in text
    assert (home / ".ssh" / "secret").read_text() == "s3cr3t"


async def test_default_mounts_of_administrator_and_user(
    notebook_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, level in (("admin", "system"), ("user", "config")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "what").write_text(name)
        (tmp_path / level).mkdir()
        config = {"DLEnv": {"default_mounts": [f"{tmp_path / name}:/mnt/{name}:ro"]}}
        (tmp_path / level / "jupyter_dlenv_config.json").write_text(json.dumps(config))
    monkeypatch.setenv("JUPYTER_CONFIG_PATH", str(tmp_path / "system"))
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path / "config"))
    environment("mounts", image=docker_images.base_image())
    async with notebook("mounts", notebook_dir) as book:
        assert (await book.run("!cat /mnt/admin/what /mnt/user/what")).text.split() == ["adminuser"]
        assert "Read-only" in (await book.run("!touch /mnt/admin/x")).text
        job = await book.run("%%dlrun --plain\nprint(open('/mnt/user/what').read())")
        assert job.text == "user\n", job


async def test_a_link_out_of_the_mounts_is_named(bare: str, notebook_dir: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "x.csv").write_text("1")
    (notebook_dir / "link").symlink_to(data)
    (notebook_dir / "far.py").symlink_to(data / "x.csv")
    async with notebook(bare, notebook_dir) as book:
        result = await book.run("open('link/x.csv')")
        assert "FileNotFoundError" in result.error + result.text
        assert f"--mount {data}:{data}" in result.text
        refused = await book.run("%dlrun far.py")
        assert f"--mount {data}:{data}" in refused.error


async def test_nbclient_runs_a_notebook_file(bare: str, notebook_dir: Path) -> None:
    cells = [nbformat.v4.new_code_cell("print(6 * 7)"), nbformat.v4.new_code_cell("import os; os.getcwd()")]
    book = nbformat.v4.new_notebook(cells=cells)
    client = NotebookClient(book, kernel_name=bare, resources={"metadata": {"path": str(notebook_dir)}}, timeout=60)
    await client.async_execute()
    assert book.cells[0].outputs[0].text == "42\n"
    assert str(notebook_dir) in book.cells[1].outputs[0].data["text/plain"]


async def start(name: str, cwd: Path) -> AsyncKernelManager:
    """Start a kernel that a test expects not to start."""
    manager = AsyncKernelManager(kernel_name=name)
    await manager.start_kernel(cwd=str(cwd))
    return manager


async def test_a_kernel_that_dies_at_once_tells_its_last_lines(notebook_dir: Path) -> None:
    code = "import sys; any('boot.py' in word for word in sys.orig_argv) and sys.exit('no licence found')"
    text = f'FROM {docker_images.base_image()}\nRUN echo "{code}" > /usr/lib/python3.11/sitecustomize.py\n'
    environment("dying", image=docker_images.image_from(text, "dying"))
    began = time.monotonic()
    with pytest.raises(DLEnvError) as caught:
        await start("dying", notebook_dir)
    assert "no licence found" in str(caught.value)
    assert time.monotonic() - began < 30


async def test_an_image_without_python_is_refused(notebook_dir: Path) -> None:
    remove = "find / -xdev -name 'python*' -type f -perm /111 -delete; find / -xdev -name 'python*' -type l -delete"
    text = f"FROM {docker_images.base_image()}\nRUN {remove}\n"
    environment("no-python", image=docker_images.image_from(text, "no-python"))
    with pytest.raises(UnusableImage, match="no Python"):
        await start("no-python", notebook_dir)


async def test_an_unknown_image_names_the_pull(
    notebook_dir: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = tmp_path / "config"
    config.mkdir()
    (config / "jupyter_dlenv_config.json").write_text(json.dumps({"DLEnv": {"pull": "never"}}))
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(config))
    environment("nowhere", image="dlenv-test/nowhere:1")
    with pytest.raises(ImageNotFound) as caught:
        await start("nowhere", notebook_dir)
    assert caught.value.hint == "jupyter dlenv images pull dlenv-test/nowhere:1"


@pytest.mark.parametrize("kernel_id", ["../../x", "a b", "$(x)", f"{{{ID}}}", ID.replace("-", "")])
async def test_a_kernel_id_that_is_no_uuid_never_becomes_a_path(bare: str, notebook_dir: Path, kernel_id: str) -> None:
    manager = AsyncKernelManager(kernel_name=bare, kernel_id=kernel_id)
    with pytest.raises(InvalidRequest):
        await manager.start_kernel(cwd=str(notebook_dir))


async def test_a_container_removed_from_outside_is_a_dead_kernel(bare: str, notebook_dir: Path) -> None:
    async with notebook(bare, notebook_dir) as book:
        book.manager.stop_restarter() if hasattr(book.manager, "stop_restarter") else None
        (container,) = containers(book.manager.kernel_id)
        docker_images.engine().remove_container(container, force=True)
        for _ in range(100):  # an end counts once it is explained
            if not await book.manager.is_alive():
                break
            await asyncio.sleep(0.05)
        assert not await book.manager.is_alive()


async def test_a_killed_kernel_is_explained(bare: str, notebook_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with notebook(bare, notebook_dir) as book:
        (container,) = containers(book.manager.kernel_id)
        docker_images.engine().kill(container, signal.SIGKILL)
        for _ in range(100):
            if not await book.manager.is_alive():
                break
            await asyncio.sleep(0.05)
        assert not await book.manager.is_alive()
        assert "The kernel of bare ended" in caplog.text


def test_environments_and_other_kernels_are_told_apart() -> None:
    environment("told", image="a/b:1")
    assert "told" in [item.name for item in EnvironmentManager().list()]
    assert "python3" not in [item.name for item in EnvironmentManager().list()]


async def test_two_kernels_do_not_meet(bare: str, notebook_dir: Path, write: Callable[[str, str], Path]) -> None:
    async with notebook(bare, notebook_dir) as one, notebook(bare, notebook_dir) as two:
        books: tuple[Notebook, Notebook] = (one, two)
        await asyncio.gather(*(book.run("import os; os.environ['ME'] = str(os.getpid())") for book in books))
        folders = {str(kernel_dir(book.manager.kernel_id)) for book in books}
        assert len(folders) == 2
        seen = (await one.run("!ls /dlenv/run")).text.split()
        sockets = ["api.sock", *(f"k-{number}" for number in range(1, 6))]
        assert sorted(seen) == sorted([*sockets, "connection.json", "last-words", "owner.lock", "parent.json"])


def test_start_failed_is_a_kind_of_engine_error() -> None:
    assert issubclass(StartFailed, DLEnvError)


def left_by_a_killed_owner(bare: str, notebook_dir: Path) -> str:
    """Start a kernel whose owner is killed at once, and return its id."""
    code = (
        "import asyncio, os, sys\n"
        "from jupyter_client.manager import AsyncKernelManager\n"
        "async def main():\n"
        f"    manager = AsyncKernelManager(kernel_name={bare!r})\n"
        "    await manager.start_kernel(cwd=os.getcwd())\n"
        "    print(manager.kernel_id, flush=True)\n"
        "    os.kill(os.getpid(), 9)\n"
        "asyncio.run(main())\n"
    )
    argv = [sys.executable, "-c", code]
    return subprocess.run(argv, cwd=notebook_dir, capture_output=True, text=True, check=False).stdout.strip()


async def test_what_a_killed_owner_leaves_is_swept(bare: str, notebook_dir: Path) -> None:
    kernel_id = left_by_a_killed_owner(bare, notebook_dir)
    (container,) = containers(kernel_id)
    assert docker_images.engine().wait(container, timeout=60)["StatusCode"] != 0  # its watchdog noticed
    assert kernel_id in await sweep()
    assert containers(kernel_id) == []
    assert not kernel_dir(kernel_id).exists()


async def test_a_kernel_at_another_engine_is_left_to_who_can_ask_for_it(bare: str, notebook_dir: Path) -> None:
    kernel_id = left_by_a_killed_owner(bare, notebook_dir)
    (container,) = containers(kernel_id)
    docker_images.engine().wait(container, timeout=60)
    known = records.read(kernel_id)
    assert known is not None
    records.write(replace(known, place="unix:///another/docker.sock"))
    assert kernel_id not in await sweep()
    assert kernel_dir(kernel_id).exists()
    records.write(known)
    assert await sweep() == [kernel_id]


async def test_a_link_in_the_folder_gives_nothing_away(bare: str, notebook_dir: Path, tmp_path: Path) -> None:
    prize = tmp_path / "prize"
    prize.write_text("")
    before = prize.stat()
    async with notebook(bare, notebook_dir) as book:
        code = (
            "import os\nfor name in ('owner.lock', 'connection.json'):\n"
            f"    os.unlink('/dlenv/run/' + name)\n    os.symlink({str(prize)!r}, '/dlenv/run/' + name)"
        )
        assert (await book.run(code)).status == "ok"
        await book.manager.restart_kernel()
        await book.client.wait_for_ready(timeout=60)
    after = prize.stat()
    assert (after.st_uid, after.st_mode, after.st_size) == (before.st_uid, before.st_mode, 0)


async def test_a_kernel_changes_no_environment_of_its_person(bare: str, notebook_dir: Path) -> None:
    environment("precious", image="a/b:1")
    code = (
        "from jupyter_dlenv.notebook.client import find_client\n"
        "from jupyter_dlenv.errors import DLEnvError\n"
        "for name, body in (('precious', {'image': 'evil/x:1'}), ('new', {'engine': 'process'})):\n"
        "    try: find_client().call('PUT', f'/environments/{name}', body)\n"
        "    except DLEnvError as error: print(type(error).__name__)"
    )
    async with notebook(bare, notebook_dir) as book:
        assert (await book.run(code)).text.split() == ["Denied", "Denied"]
    assert EnvironmentManager().get("precious").image == "a/b:1"
