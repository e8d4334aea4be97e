"""``--debug``: a real debugger's client over a tunnel, and the settings that people are given."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker_images
import pytest

from jupyter_dlenv.engines.docker.engine import DockerEngine
from jupyter_dlenv.engines.folder import RunFolder
from jupyter_dlenv.errors import InvalidRequest
from jupyter_dlenv.images.probe import probe
from jupyter_dlenv.jobs.debug_entry import rank_of
from jupyter_dlenv.jobs.debuggers import Debuggers, Waiting, listening_port
from jupyter_dlenv.jobs.debugging import ABOUT, ENTRY, PathMapping, card, command, debug_rank, path_mappings
from jupyter_dlenv.kernels.runtime import MOUNT_POINT, ensure_runtime
from jupyter_dlenv.launchers import Launch, Process, Program
from jupyter_dlenv.paths import data_dir
from jupyter_dlenv.resources import Mount

PATIENCE_S = 120
RUN = "/dlenv/run"


class Dap:
    """A debugger's client, as far as tests need one: the Debug Adapter Protocol over a connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer, self._last = reader, writer, 0
        self.came: list[dict[str, Any]] = []

    def send(self, name: str, arguments: Any = None) -> int:
        """Send a request and return its number."""
        self._last += 1
        message = {"seq": self._last, "type": "request", "command": name, "arguments": arguments or {}}
        body = json.dumps(message).encode()
        self._writer.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        return self._last

    async def until(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Return the first message that is wanted."""
        while True:
            for message in self.came:
                if wanted(message):
                    self.came.remove(message)
                    return message
            self.came.append(await asyncio.wait_for(self._message(), PATIENCE_S))

    async def _message(self) -> dict[str, Any]:
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = int(head.split(b"Content-Length:")[1].split(b"\r\n")[0])
        return dict(json.loads(await self._reader.readexactly(length)))

    async def event(self, name: str) -> dict[str, Any]:
        """Return an event's body."""
        return dict((await self.until(lambda message: message.get("event") == name)).get("body") or {})

    async def ask(self, name: str, arguments: Any = None) -> dict[str, Any]:
        """Return the answer's body."""
        number = self.send(name, arguments)
        answer = await self.until(lambda message: message.get("request_seq") == number)
        assert answer["success"], answer
        return dict(answer.get("body") or {})

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()


async def debug(port: int, mappings: tuple[PathMapping, ...], source: Path, line: int, show: str) -> str:
    """Attach as an editor does, stop at a line, look at an expression there, and let it go on."""
    dap = Dap(*await asyncio.open_connection("127.0.0.1", port))
    await dap.ask("initialize", {"adapterID": "test", "pathFormat": "path", "linesStartAt1": True})
    settings = json.loads(card_settings(port, mappings))
    attached = dap.send("attach", settings)
    await dap.event("initialized")
    await dap.ask("setBreakpoints", {"source": {"path": str(source)}, "breakpoints": [{"line": line}]})
    await dap.ask("configurationDone")
    await dap.until(lambda message: message.get("request_seq") == attached)
    thread = (await dap.event("stopped"))["threadId"]
    top = (await dap.ask("stackTrace", {"threadId": thread}))["stackFrames"][0]
    assert (top["line"], top["source"]["path"]) == (line, str(source))
    seen = (await dap.ask("evaluate", {"expression": show, "frameId": top["id"]}))["result"]
    await dap.ask("continue", {"threadId": thread})
    await dap.event("terminated")
    await dap.close()
    return str(seen)


def card_settings(port: int, mappings: tuple[PathMapping, ...]) -> str:
    """Return the settings for VS Code as they stand in the card."""
    text = card("train.py", 1, port, mappings, open_to_others=False)
    return text[text.index("{") : text.rindex("}") + 1]


SCRIPT = """
import os, sys
import torch.distributed as dist
dist.init_process_group("gloo")
rank = dist.get_rank()
if rank == 0:
    print("rank 0 is here", flush=True)
secret = rank + 41
dist.barrier()
print("done", rank, sys.argv[1:], __name__, __file__, flush=True)
dist.destroy_process_group()
"""


@dataclass
class Job:
    """A job in a container, as far as a debugger is concerned."""

    container: str
    run: Path

    def log(self) -> str:
        return "\n".join(path.read_text() for path in sorted(self.run.rglob("*.log")))


@pytest.fixture
async def job(torch_image: str, tmp_path: Path) -> AsyncIterator[Job]:
    """Two ranks of torchrun, of which rank 1 waits."""
    engine = DockerEngine()
    image = await engine.image(torch_image)
    facts = await probe(engine, image.id, torch_image)
    runtime = await ensure_runtime(engine, image.id, facts, data_dir=data_dir(), progress=print)
    project, run = tmp_path / "project", tmp_path / "run"
    for folder in (project, run):
        folder.mkdir()
    (project / "train.py").write_text(SCRIPT)
    program = Program(facts.python, ("/code/train.py", "--lr", "0.1"), 2, RUN, {})
    made = command("torchrun", program, 1, debugpy=f"{MOUNT_POINT}/site")
    for name, text in made.files.items():
        (run / name).write_text(text)
    for path in (tmp_path, project, run):
        path.chmod(0o777)
    mounts = [(str(run), RUN, False), (str(project), "/code", True), (str(runtime.path), MOUNT_POINT, True)]
    body = {
        "Image": image.id,
        "Hostname": "node",
        "User": "1000:1000",
        "Entrypoint": list(made.argv),
        "WorkingDir": "/code",
        "Env": [f"{key}={value}" for key, value in made.env.items()] + ["HOME=/tmp"],
        "HostConfig": {
            "NetworkMode": "none",
            "ExtraHosts": ["node:127.0.0.1"],
            "Init": True,
            "CapDrop": ["ALL"],
            "ShmSize": 1 << 28,
            "Mounts": [{"Type": "bind", "Source": a, "Target": b, "ReadOnly": c} for a, b, c in mounts],
        },
    }
    client = docker_images.engine()
    container = str(client.create_container_from_config(body)["Id"])
    try:
        client.start(container)
        yield Job(container, run)
    finally:
        client.remove_container(container, force=True)


@pytest.mark.docker
@pytest.mark.slow
async def test_one_rank_of_a_job_without_network_is_debugged(job: Job, tmp_path: Path) -> None:
    debuggers = Debuggers()
    waiting = Waiting("docker", job.container, RunFolder(job.run))
    port = await debuggers.open("job", waiting)
    assert await debuggers.open("job", waiting) == port
    mappings = path_mappings((Mount(str(tmp_path / "project"), "/code"),))
    seen = await debug(port, mappings, tmp_path / "project" / "train.py", 9, "(rank, secret, __name__)")
    assert seen == "(1, 42, '__main__')"
    assert docker_images.engine().wait(job.container, timeout=PATIENCE_S)["StatusCode"] == 0
    log = job.log()
    assert "rank 0 is here" in log
    for rank in (0, 1):
        assert f"done {rank} ['--lr', '0.1'] __main__ /code/train.py" in log
    assert "Rank 1 waits for a debugger." in log
    assert "Rank 0 waits" not in log
    await debuggers.close("job")


# On this host ---------------------------------------------------------------------------------------------------------


def host_launch(folder: Path, argv: tuple[str, ...], rank: int = 0, debugpy: str = "") -> Launch:
    made = command("python", Program(sys.executable, argv, 1, str(folder), {}), rank, debugpy=debugpy)
    for name, text in made.files.items():
        (folder / name).write_text(text)
    return made


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "beside.py").write_text("VALUE = 7\n")
    (tmp_path / "run").mkdir()
    return folder


FAILING = """
import beside, sys

def inner():
    value = beside.VALUE
    raise KeyError(value)

print(sorted(name for name in globals() if not name.startswith("__")), sys.argv)
inner()
"""


@pytest.mark.parametrize("module", [False, True])
async def test_a_debugged_script_fails_like_any_other(project: Path, tmp_path: Path, module: bool) -> None:
    """Its names, its arguments and its traceback are what they are without a debugger."""
    (project / "train.py").write_text(FAILING)
    what = ("-m", "train", "a b") if module else (str(project / "train.py"), "a b")
    made = host_launch(tmp_path / "run", what)
    plain = subprocess.run([sys.executable, *what], cwd=project, capture_output=True, text=True, check=False)
    process = await asyncio.create_subprocess_exec(
        *made.argv, cwd=project, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    debuggers = Debuggers()
    port = await debuggers.open("job", Waiting("process", "", RunFolder(tmp_path / "run")))
    mappings = path_mappings((Mount(str(project), str(project)),))
    assert await debug(port, mappings, project / "train.py", 6, "value") == "7"
    out, errors = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    await debuggers.close("job")
    assert process.returncode == plain.returncode == 1
    assert out.decode() == plain.stdout
    said = errors.decode().partition("Rank 0 waits for a debugger.\n")[2]
    assert without_runpy(said) == without_runpy(plain.stderr)


def without_runpy(text: str) -> str:
    """Return a traceback from the script's own frames on: `python -m` shows its own before them."""
    return textwrap.dedent(text[text.index('  File "' + text.split('  File "')[-2].split('"')[0]) :])


def test_other_ranks_become_the_script(project: Path, tmp_path: Path) -> None:
    (project / "train.py").write_text(
        "import os, sys\nprint(os.environ['RANK'], sys.argv[1:], sys.orig_argv[-2])\n1/0\n"
    )
    made = host_launch(tmp_path / "run", (str(project / "train.py"), "x"), rank=1)
    done = subprocess.run(
        made.argv, env={**os.environ, "RANK": "0"}, capture_output=True, text=True, check=False, cwd=project
    )
    assert done.stdout == f"0 ['x'] {project / 'train.py'}\n"
    assert done.stderr.count('  File "') == 1
    assert not (tmp_path / "run" / "debug.json").exists()


def test_a_python_without_debugpy_says_what_to_install(project: Path, tmp_path: Path) -> None:
    (project / "train.py").write_text("print('never')\n")
    made = host_launch(tmp_path / "run", (str(project / "train.py"),))
    done = subprocess.run(["/usr/bin/python3", *made.argv[1:]], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "-m pip install debugpy" in done.stderr


# Pure -----------------------------------------------------------------------------------------------------------------


def test_the_launcher_sees_one_script() -> None:
    seen: list[Program] = []

    def launch(_name: str, program: Program) -> Launch:
        seen.append(program)
        return Launch(processes=(Process(("p", "0"), {"A": "1"}), Process(("p", "1"))), files={"hosts": "x"})

    program = Program("python3", ("-m", "pkg.train", "-m", "x"), 2, "/run/node-3", {}, nnodes=4, node_rank=3)
    made = command("any", program, 7, debugpy="/d", launch=launch)
    assert seen[0].argv == (f"/run/node-3/{ENTRY}", "-m", "x")
    assert [process.env["DLENV_RANK"] for process in made.processes] == ["6", "7"]
    assert made.processes[0].env["A"] == "1"
    assert set(made.files) == {"hosts", ENTRY, ABOUT}
    about = json.loads(made.files[ABOUT])
    assert about == {"target": ["-m", "pkg.train"], "rank": 7, "first_rank": 6, "debugpy": "/d"}


def test_without_a_script_there_is_nothing_to_debug() -> None:
    with pytest.raises(InvalidRequest):
        command("python", Program("python3", (), 1, "/run", {}), 0)


@pytest.mark.parametrize(("text", "rank"), [("0", 0), ("7", 7)])
def test_a_rank_is_one_of_the_job(text: str, rank: int) -> None:
    assert debug_rank(text, 8) == rank


@pytest.mark.parametrize("text", ["8", "-1", "", "x", "٣", "1.5"])
def test_another_rank_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        debug_rank(text, 8)


@pytest.mark.parametrize(
    ("environ", "rank"),
    [
        ({}, 5),
        ({"RANK": "3"}, 3),
        ({"OMPI_COMM_WORLD_RANK": "2"}, 2),
        ({"PADDLE_TRAINER_ID": "1"}, 1),
        ({"RANK": "0", "DLENV_RANK": "4"}, 4),
        ({"RANK": "x"}, 5),
    ],
)
def test_the_rank_is_what_the_launcher_says(environ: dict[str, str], rank: int) -> None:
    assert rank_of(environ, 5) == rank


@pytest.mark.parametrize("said", [{}, {"port": 0}, {"port": "80"}, {"port": True}, {"port": 70000}])
def test_a_port_that_cannot_be_is_none(said: dict[str, Any]) -> None:
    assert listening_port(said) is None


def test_the_deepest_folder_is_mapped_first() -> None:
    mounts = (Mount("/home/a/nb", "/home/a/nb"), Mount("/data/x", "/home/a/nb/data"))
    mappings = path_mappings(mounts)
    assert mappings == (PathMapping("/data/x", "/home/a/nb/data"), PathMapping("/home/a/nb", "/home/a/nb"))
    settings = json.loads(card_settings(5678, mappings))
    assert settings["connect"] == {"host": "127.0.0.1", "port": 5678}
    assert settings["pathMappings"][0] == {"localRoot": "/data/x", "remoteRoot": "/home/a/nb/data"}


def test_who_shares_the_host_s_network_is_warned() -> None:
    assert "Other people" not in card("x", 0, 1, (), open_to_others=False)
    assert "other people of this host" in card("x", 0, 1, (), open_to_others=True)
