"""The runtime, made for real and mounted into real containers."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from docker_images import BASE, base_image, engine, image_from
from driver import (
    Kernel,
    container_kernel,
    interrupt,
    local_kernel,
    prepare_image,
    probe_local,
    run_in,
    wait_until,
)

from jupyter_dlenv.errors import DLEnvError
from jupyter_dlenv.images.facts import ImageFacts, facts_to_text
from jupyter_dlenv.kernels.integrity import damaged_files, is_whole
from jupyter_dlenv.kernels.runtime import BYTECODE, MOUNT_POINT, Runtime, prepare
from jupyter_dlenv.resources import Mount

pytestmark = [pytest.mark.docker, pytest.mark.slow]

VENV = f"""FROM {BASE}
COPY wheels /wheels
RUN python3 -m venv /opt/venv && /opt/venv/bin/pip install --no-index --find-links /wheels /wheels/*.whl
ENV PATH=/opt/venv/bin:$PATH VIRTUAL_ENV=/opt/venv
"""
OLD_PINS = (
    "traitlets==5.0.5",
    "tornado==6.2",
    "typing_extensions==4.0.1",
    "Pygments==2.7.4",
    "packaging==20.9",
    "psutil==5.9.4",
    "python-dateutil==2.8.0",
    "jedi==0.17.2",
    "parso==0.7.1",
    "prompt_toolkit==3.0.20",
    "wcwidth==0.2.5",
)
FITTING_PINS = (
    "typing_extensions==4.15.0",
    "packaging==25.0",
    "psutil==7.0.0",
    "Pygments==2.19.1",
    "platformdirs==4.3.6",
    "python-dateutil==2.9.0.post0",
    "jedi==0.19.2",
    "parso==0.8.4",
    "prompt_toolkit==3.0.50",
    "wcwidth==0.2.13",
    "matplotlib==3.9.2",
)
MISLEADING = f"""FROM {BASE}
RUN mkdir -p /opt/modules/IPython && echo 'raise SystemExit("not this one")' > /opt/modules/IPython/__init__.py \
 && echo 'HERE = True' > /opt/modules/image_module.py && echo 'raise SystemExit(1)' > /opt/modules/traitlets.py
ENV PYTHONPATH=/opt/modules PYTHONHOME=/usr PYTHONDONTWRITEBYTECODE=1 VIRTUAL_ENV=/nowhere
"""
VERSIONS = """
import importlib, importlib.metadata, json
def side(module, name):
    found = importlib.import_module(module)
    where = "runtime" if found.__file__.startswith("/dlenv/runtime/site/") else "image"
    return [where, importlib.metadata.version(name)]
"""
STACK = {"IPython": "ipython", "ipykernel": "ipykernel", "traitlets": "traitlets", "tornado": "tornado", "zmq": "pyzmq"}
SHARED = {
    "typing_extensions": "typing_extensions",
    "pygments": "Pygments",
    "packaging": "packaging",
    "psutil": "psutil",
    "dateutil": "python-dateutil",
    "jedi": "jedi",
    "parso": "parso",
    "prompt_toolkit": "prompt_toolkit",
    "wcwidth": "wcwidth",
}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def host_runtime(data_dir: Path) -> tuple[ImageFacts, Runtime]:
    facts = probe_local(sys.executable)
    return facts, prepare(
        facts, image_id="", data_dir=data_dir, compile_in=lambda argv, mounts: None, progress=lambda line: None
    )


@pytest.fixture(scope="module")
def bare(data_dir: Path) -> Iterator[Kernel]:
    image = base_image()
    with container_kernel(image, *prepare_image(image, data_dir), env={"JPY_PARENT_PID": "999999"}) as kernel:
        yield kernel


def sides(kernel: Kernel, modules: dict[str, str]) -> dict[str, Any]:
    kernel.run(VERSIONS)
    return {module: kernel.value(f"side({module!r}, {name!r})") for module, name in modules.items()}


def facts_of(**changes: Any) -> ImageFacts:
    facts = ImageFacts("/usr/bin/python3", (3, 11, 2), "CPython", "x86_64", "glibc", (2, 36))
    return replace(facts, **changes)


# --- the folder ---


def test_a_damaged_runtime_is_made_anew_from_wheels_that_are_whole(
    host_runtime: tuple[ImageFacts, Runtime], tmp_path: Path
) -> None:
    facts, made = host_runtime
    runtimes = tmp_path / "runtimes"
    shutil.copytree(made.path.parent, runtimes, ignore=shutil.ignore_patterns("*.checked"))
    path = runtimes / made.path.name
    said: list[str] = []

    def again() -> Path:
        said.clear()
        return prepare(facts, image_id="", data_dir=tmp_path, compile_in=nothing, progress=said.append).path

    assert again() == path
    assert said == []
    (path / "finder.py").unlink()
    assert again() == path
    assert [line.split()[0] for line in said] == ["Compiling"]
    assert damaged_files(path) == []
    # The folder of wheels is damaged too: its files are those of the runtime, by links or by copies.
    (wheels,) = (folder for folder in runtimes.glob("cp3*/") if not (folder / "boot.py").exists())
    for folder in (path, wheels):
        stack = folder / "site" / "traitlets" / "__init__.py"
        stack.chmod(0o644)
        stack.write_bytes(b"#" + stack.read_bytes()[1:])
    forget_the_last_look(runtimes)
    assert again() == path
    assert [line.split()[0] for line in said] == ["Fetching", "Compiling"]
    assert damaged_files(path) == damaged_files(wheels) == []


def forget_the_last_look(runtimes: Path) -> None:
    """Do what a start of the host does: each folder is looked at in full again."""
    for stamp in runtimes.glob("*.checked"):
        stamp.unlink()


def test_what_was_left_half_made_is_not_taken(host_runtime: tuple[ImageFacts, Runtime], tmp_path: Path) -> None:
    facts, made = host_runtime
    (tmp_path / "runtimes" / made.path.name / "site").mkdir(parents=True)
    (tmp_path / "runtimes" / f".{made.path.name}.killed").mkdir()
    runtime = prepare(facts, image_id="", data_dir=tmp_path, compile_in=nothing, progress=lambda line: None)
    assert runtime.path.name == made.path.name
    assert damaged_files(runtime.path) == []
    assert not (tmp_path / "runtimes" / f".{made.path.name}.killed").exists()


def nothing(argv: Sequence[str], mounts: Sequence[Mount]) -> None:
    """Compile nowhere: the host's interpreter does it."""


def test_damage_is_seen_by_size_hash_and_absence(host_runtime: tuple[ImageFacts, Runtime], tmp_path: Path) -> None:
    _facts, runtime = host_runtime
    assert damaged_files(runtime.path) == []
    copy = tmp_path / "copy"
    shutil.copytree(runtime.path, copy)
    assert is_whole(copy)
    (copy / "finder.py").unlink()
    assert not is_whole(copy)
    boot = copy / "boot.py"
    boot.chmod(0o644)
    boot.write_bytes(boot.read_bytes()[::-1])
    assert sorted(damaged_files(copy)) == ["boot.py", "finder.py"]
    (copy / "files.json").unlink()
    assert damaged_files(copy) == ["files.json"]


def test_a_failed_download_says_why_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    with pytest.raises(DLEnvError, match="asttokens") as failure:
        prepare(facts_of(), image_id="", data_dir=tmp_path, compile_in=lambda argv, mounts: None, progress=print)
    assert "pip config list" in failure.value.hint
    assert [path for path in (tmp_path / "runtimes").iterdir() if path.suffix != ".lock"] == []


def test_two_processes_at_once_get_one_folder_that_anybody_can_read(tmp_path: Path) -> None:
    facts = tmp_path / "facts.json"
    facts.write_text(facts_to_text(probe_local(sys.executable)))
    code = """
import os, sys
from pathlib import Path
from jupyter_dlenv.images.facts import facts_from_text
from jupyter_dlenv.kernels.runtime import prepare
os.umask(0o077)
facts = facts_from_text(Path(sys.argv[1]).read_text())
print(prepare(facts, image_id="", data_dir=Path(sys.argv[2]), compile_in=None,
              progress=lambda line: print(line, file=sys.stderr)).path)
"""
    argv = [sys.executable, "-c", code, str(facts), str(tmp_path)]
    both = [subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    answers = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], answers
    assert answers[0][0] == answers[1][0] != ""
    assert sum(errors.count("Fetching") for _path, errors in answers) == 1
    folder = Path(answers[0][0].strip())
    assert damaged_files(folder) == []
    for parent, _folders, names in os.walk(folder):
        assert os.stat(parent).st_mode & 0o777 == 0o755
        assert all(os.stat(os.path.join(parent, name)).st_mode & 0o777 == 0o444 for name in names)
    assert sorted(path.name[0] for path in (tmp_path / "runtimes").iterdir()).count(".") == 0


def test_a_foreign_image_compiles_for_itself_and_can_plant_nothing(data_dir: Path, tmp_path: Path) -> None:
    minor = 12 if sys.version_info[:2] != (3, 12) else 13
    facts = facts_of(version=(3, minor, 0), machine=os.uname().machine)
    secret = tmp_path / "secret"
    secret.write_bytes(b"\0\0\0\0\1\0\0\0secret")
    asked: list[tuple[Sequence[str], Sequence[Mount]]] = []

    def compile_in(argv: Sequence[str], mounts: Sequence[Mount]) -> None:
        asked.append((argv, mounts))
        out = Path(mounts[1].source)
        for name in ("site/IPython/__init__.pyc", "site/IPython/planted.pyc", "site/planted.py", "planted/a.pyc"):
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            (out / name).write_bytes(b"\0\0\0\0\1\0\0\0code")
        (out / "site/IPython/paths.pyc").symlink_to(secret)
        (out / "site/traitlets").symlink_to(tmp_path)
        (out / "site/IPython/display.pyc").write_bytes(b"\0\0\0\0\0\0\0\0checked by time stamp")

    def made_for(image_id: str) -> Runtime:
        return prepare(facts, image_id=image_id, data_dir=data_dir, compile_in=compile_in, progress=lambda line: None)

    first, again, other = made_for("sha256:aa"), made_for("sha256:aa"), made_for("sha256:bb")
    assert first == again != other
    assert len(asked) == 2
    argv, mounts = asked[0]
    assert tuple(argv) == ("/usr/bin/python3", "-I", "-S", "-W", "ignore", f"{MOUNT_POINT}/compile.py", BYTECODE)
    assert [(mount.target, mount.read_only) for mount in mounts] == [(MOUNT_POINT, True), (BYTECODE, False)]
    assert not Path(mounts[1].source).exists()
    compiled = [str(path.relative_to(first.path)) for path in first.path.rglob("*.pyc")]
    assert compiled == [f"site/IPython/__pycache__/__init__.cpython-3{minor}.pyc"]
    assert not list(first.path.rglob("planted*"))
    shared = "site/IPython/__init__.py"
    assert (first.path / shared).stat().st_ino == (other.path / shared).stat().st_ino


def other_pythons() -> list[str]:
    """Return this host's interpreters at the edges: too old for our magics, the oldest for them, the newest."""
    minors = [minor for minor in range(6, 15) if minor != sys.version_info[1]]
    on_path = [path for minor in minors if (path := shutil.which(f"python3.{minor}")) and "shims" not in path]
    managed = [str(path) for minor in minors for path in Path.home().glob(f".pyenv/versions/3.{minor}.*/bin/python")]
    found = sorted({probe_local(path).version: path for path in managed + on_path}.items())
    old = [path for version, path in found if version < (3, 8)]
    new = [path for version, path in found if version >= (3, 8)]
    return [*old, *new[:1], *new[1:][-1:]]


@pytest.mark.parametrize("python", [sys.executable, *other_pythons()])
def test_every_minor_runs_a_kernel(python: str, data_dir: Path) -> None:
    facts = probe_local(python)

    def compile_in(argv: Sequence[str], mounts: Sequence[Mount]) -> None:
        places = {mount.target: mount.source for mount in mounts}
        script, out = (str(part) for part in argv[-2:])
        script = script.replace(MOUNT_POINT, places[MOUNT_POINT])
        subprocess.run([*argv[:-2], script, out.replace(BYTECODE, places[BYTECODE])], check=True)

    runtime = prepare(facts, image_id=python, data_dir=data_dir, compile_in=compile_in, progress=lambda line: None)
    with local_kernel(facts, runtime) as kernel:
        assert kernel.run("1/0").startswith("ZeroDivisionError")
        assert kernel.value("list(__import__('sys').version_info[:3])") == list(facts.version)
        assert kernel.run("import ipykernel.kernelapp as k; print(k.__spec__.cached)").startswith(str(runtime.path))
        assert Path(kernel.run("print(k.__spec__.cached)").strip()).is_file()
        if facts.version >= (3, 8):
            versions = "import ipykernel, importlib.metadata as m; print(ipykernel.__version__, m.version('ipykernel'))"
            assert len(set(kernel.run(versions).split())) == 1
            assert kernel.value("get_ipython().find_line_magic('dlrun').__module__") == "jupyter_dlenv.notebook.magics"
        else:
            assert "this image has 3." in kernel.run("%dlrun train.py")
        if facts.version >= (3, 7):
            assert kernel.run("import ipywidgets; ipywidgets.IntSlider(3)") == "IntSlider(value=3)"
        assert kernel.value("'IPKernelApp' in get_ipython().config") is True


# --- kernels in containers ---


def test_a_bare_image_is_a_kernel_under_the_strictest_limits(bare: Kernel) -> None:
    assert bare.value("[__import__('os').getuid(), __import__('os').getgid()]") == [1000, 1000]
    assert bare.run("open('/etc/x', 'w')").startswith("OSError: [Errno 30]")
    assert bare.run("import socket; socket.create_connection(('192.0.2.1', 80), 1)").startswith("OSError: [Errno 101]")
    assert "CapEff:\t0000000000000000" in bare.run("print(open('/proc/self/status').read())")
    assert all(where == "runtime" for where, _version in sides(bare, {**STACK, **SHARED}).values())
    assert bare.run("import jupyter_dlenv; print(jupyter_dlenv.__file__)").startswith("/dlenv/runtime/site/")
    assert bare.value("get_ipython().find_line_magic('dlrun') is not None") is True


def test_child_processes_see_the_image_only(bare: Kernel) -> None:
    for module in (*STACK, *SHARED):
        assert f"No module named '{module}'" in bare.run(f"!python3 -c 'import {module}'")
    assert bare.value("[entry for entry in __import__('sys').path if entry.startswith('/dlenv')]") == []
    kept = bare.value("{k: v for k, v in __import__('os').environ.items() if 'dlenv' in v or k.startswith('DLENV')}")
    assert kept == {"HOME": "/dlenv/home"}
    assert bare.value("sorted({'MPLBACKEND', 'JPY_PARENT_PID', 'PYTHONPATH'} & set(__import__('os').environ))") == []


def test_modules_nobody_has_are_missing(bare: Kernel) -> None:
    assert bare.run("import numpy").startswith("ModuleNotFoundError")
    assert bare.run("import matplotlib").startswith("ModuleNotFoundError")


def test_interrupt_ends_a_cell_and_not_the_kernel(bare: Kernel) -> None:
    timer = threading.Timer(1, interrupt, [bare])
    timer.start()
    assert bare.run("import time; time.sleep(100)").startswith("KeyboardInterrupt")
    assert bare.run("print('still here')") == "still here\n"


def test_processes_of_user_code_are_its_own(bare: Kernel) -> None:
    assert bare.run("import os; os.wait()").startswith("ChildProcessError")
    code = "import multiprocessing as m\nwith m.get_context('fork').Pool(1) as pool: print(pool.map(abs, [-3]))"
    assert bare.run(code) == "[3]\n"
    spawn = "p = m.get_context('spawn').Process(target=print); p.start(); p.join(); print(p.exitcode)"
    assert bare.run(spawn).endswith("0\n")


def test_debugger_attaches(bare: Kernel) -> None:
    request = {"type": "request", "seq": 1, "command": "initialize", "arguments": {"clientID": "test", "adapterID": ""}}
    message = bare.client.session.msg("debug_request", request)
    bare.client.control_channel.send(message)
    reply = bare.client.get_control_msg(timeout=60)
    assert reply["content"]["success"], reply["content"]


def test_old_pins_of_the_image_do_not_reach_the_kernel_stack(data_dir: Path) -> None:
    image = image_from(VENV, "old-pins", wheels=OLD_PINS)
    with container_kernel(image, *prepare_image(image, data_dir)) as kernel:
        found = sides(kernel, {**STACK, **SHARED})
        assert {where for where, _version in found.values()} == {"runtime"}
        assert sides(kernel, {"six": "six"})["six"][0] == "image"
        child = kernel.run(
            "!python -c 'import traitlets, pygments; print(traitlets.__version__, pygments.__version__)'"
        )
        assert child.split() == ["5.0.5", "2.7.4"]


def test_versions_of_the_image_that_fit_are_the_users(data_dir: Path) -> None:
    image = image_from(VENV, "fitting-pins", wheels=FITTING_PINS)
    pinned = dict(pin.split("==") for pin in FITTING_PINS)
    with container_kernel(image, *prepare_image(image, data_dir)) as kernel:
        assert sides(kernel, SHARED) == {module: ["image", pinned[name]] for module, name in SHARED.items()}
        assert {where for where, _version in sides(kernel, STACK).values()} == {"runtime"}
        assert kernel.run("import matplotlib; print(matplotlib.get_backend())").strip().endswith("inline")
        drawn = kernel.run("from matplotlib import pyplot; _ = pyplot.plot([1, 2])")
        assert "image/png" in drawn
        child = "!python -c 'import matplotlib, os; print(matplotlib.get_backend(), os.environ.get(\"MPLBACKEND\"))'"
        assert kernel.run(child).split() == ["agg", "None"]


def test_a_given_matplotlib_backend_is_respected(data_dir: Path) -> None:
    image = image_from(VENV, "fitting-pins", wheels=FITTING_PINS)
    with container_kernel(image, *prepare_image(image, data_dir), env={"MPLBACKEND": "svg"}) as kernel:
        assert kernel.run("import matplotlib; print(matplotlib.get_backend())") == "svg\n"
        assert kernel.value("__import__('os').environ['MPLBACKEND']") == "svg"


def test_variables_of_the_image_do_not_break_the_kernel(data_dir: Path) -> None:
    image = image_from(MISLEADING, "misleading")
    with container_kernel(image, *prepare_image(image, data_dir)) as kernel:
        assert kernel.run("import image_module; print(image_module.HERE)") == "True\n"
        assert kernel.value("__import__('os').environ['PYTHONPATH']") == "/opt/modules"
        assert "not this one" in kernel.run("!python3 -c 'import IPython'")


def test_packages_folder_comes_before_the_images_in_a_venv(data_dir: Path) -> None:
    image = image_from(VENV, "old-pins", wheels=OLD_PINS)
    copied = "mkdir /packages /more && cp -r /opt/venv/lib/python3.11/site-packages/six* /packages"
    written = "echo /more > /packages/x.pth && echo 'A = 1' > /more/more_module.py"
    image = image_from(f"FROM {image}\nRUN {copied} && {written}\n", "packages")
    env = {"DLENV_PACKAGES_PATH": "/packages"}
    with container_kernel(image, *prepare_image(image, data_dir), env=env) as kernel:
        assert kernel.run("import six; print(six.__file__)") == "/packages/six.py\n"
        assert kernel.run("import more_module; print(more_module.A)") == "1\n"
        path = kernel.value("__import__('sys').path")
        assert path.index("/packages") < path.index("/opt/venv/lib/python3.11/site-packages")


def test_a_user_folder_made_after_the_start_is_searched(data_dir: Path) -> None:
    image = base_image()
    env = {"PYTHONUSERBASE": "/dlenv/home/packages"}
    with container_kernel(image, *prepare_image(image, data_dir), env=env) as kernel:
        folder = kernel.value("__import__('site').getusersitepackages()")
        kernel.run(f"open('{folder}/fresh_module.py', 'w').write('A = 1')")
        assert kernel.run("import fresh_module; print(fresh_module.A)") == "1\n"
        assert kernel.run("!python3 -c 'import fresh_module; print(fresh_module.A)'") == "1\r\n"
        path = kernel.value("__import__('sys').path")
        assert path.index(folder) < path.index("/usr/lib/python3/dist-packages")


def test_kernel_ends_when_its_owner_is_gone_and_not_before(data_dir: Path, tmp_path: Path) -> None:
    image = base_image()
    tmp_path.chmod(0o755)
    lock = os.open(tmp_path / "owner.lock", os.O_CREAT | os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    facts, runtime = prepare_image(image, data_dir)
    binds = [f"{tmp_path}:/dlenv/owner:ro"]
    env = {"DLENV_OWNER_LOCK": "/dlenv/owner/owner.lock", "DLENV_OWNER_GRACE": "2"}
    with container_kernel(image, facts, runtime, env=env, more_binds=binds) as kernel:
        assert kernel.run("import os; os.wait()").startswith("ChildProcessError")
        interrupt(kernel)
        assert kernel.run("import time; time.sleep(4); print('alive')") == "alive\n"
        watchdogs = run_and_list(kernel)
        assert len(watchdogs) == 1
        assert all("socket" not in target and "/dlenv/run" not in target for target in watchdogs[0])
        os.close(lock)
        container = (kernel.folder / "container").read_text()
        wait_until(lambda: not engine().inspect_container(container)["State"]["Running"])


def run_and_list(kernel: Kernel) -> list[list[str]]:
    """Return the open files of each other process that runs the boot."""
    return list(
        kernel.value(
            "[[os.readlink(f'/proc/{pid}/fd/{fd}') for fd in os.listdir(f'/proc/{pid}/fd')]"
            " for pid in os.listdir('/proc') if pid.isdigit() and int(pid) not in (1, os.getpid())"
            " and b'boot.py' in open(f'/proc/{pid}/cmdline', 'rb').read()]"
        )
    )


def test_the_shell_of_the_image_is_enough_to_compile(data_dir: Path) -> None:
    image = base_image()
    _facts, runtime = prepare_image(image, data_dir)
    out = data_dir / "out"
    out.mkdir()
    out.chmod(0o777)
    mounts = [Mount(str(runtime.path), MOUNT_POINT, True), Mount(str(out), BYTECODE)]
    run_in(image, ["python3", "-I", "-S", "-W", "ignore", f"{MOUNT_POINT}/compile.py", BYTECODE], mounts, "1234:1234")
    assert (out / "site/IPython/__init__.pyc").is_file()
