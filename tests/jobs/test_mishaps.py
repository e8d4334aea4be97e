"""What goes wrong on the way to a start: nothing waits for ever, nothing is left, and the end says what happened."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import docker_images
import pytest

from jupyter_dlenv.engines.process import ProcessEngine
from jupyter_dlenv.errors import DLEnvError, EngineError, InvalidRequest
from jupyter_dlenv.jobs import starting
from jupyter_dlenv.jobs.choices import refuse_roles, refuse_without_script
from jupyter_dlenv.jobs.manager import JobManager
from jupyter_dlenv.jobs.principal import Principal
from jupyter_dlenv.jobs.records import Final, JobFolder
from jupyter_dlenv.kernels.environments import Environment
from jupyter_dlenv.options import RunRequest
from jupyter_dlenv.settings import load_settings
from jupyter_dlenv.spec import JobState, Reason, new_id

Write = Callable[[str, str], Path]
COMMAND = [sys.executable, "-m", "jupyter_dlenv"]
KILLED = """
import os, sys
from jupyter_dlenv.engines.docker.engine import DockerEngine
async def killed(self, plan):
    os._exit(9)
DockerEngine.submit = killed
from jupyter_dlenv.cli import main
sys.exit(main())
"""


@pytest.fixture
def manager() -> JobManager:
    """A manager of this process."""
    return JobManager(load_settings())


@pytest.fixture
def me() -> Principal:
    """Who submits."""
    return Principal(load_settings().owner)


@pytest.fixture
def request_(notebook_dir: Path, write: Write) -> RunRequest:
    """A run of plain processes."""
    write("a.py", "import time\ntime.sleep(0.2)\n")
    return RunRequest(request_id=new_id(), script="a.py", cwd=str(notebook_dir), engine="process", retries=1)


async def test_a_full_disk_at_the_start_is_an_end(
    manager: JobManager, me: Principal, request_: RunRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(starting, "prepare_folder", full)
    with pytest.raises(EngineError, match="No space left"):
        await manager.submit(me, request_)
    view = await manager.get(me, request_.request_id)
    assert (view.status.state, "No space left" in view.status.message) == (JobState.FAILED, True)
    await manager.remove(me, request_.request_id)


async def test_a_job_is_stopped_between_submission_and_start(
    manager: JobManager, me: Principal, request_: RunRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached, go_on = asyncio.Event(), asyncio.Event()
    submit = ProcessEngine.submit

    async def slowly(self: ProcessEngine, plan: Any) -> Any:
        reached.set()
        await go_on.wait()
        return await submit(self, plan)

    monkeypatch.setattr(ProcessEngine, "submit", slowly)
    submitted = asyncio.ensure_future(manager.submit(me, request_))
    await reached.wait()
    stopped = await manager.cancel(me, request_.request_id)
    assert not stopped.status.state.ended  # it is just being started, and its starter stops it
    go_on.set()
    await submitted
    for _look in range(100):
        view = await manager.get(me, request_.request_id)
        if view.status.state.ended:
            break
        await asyncio.sleep(0.1)
    assert view.status.state is JobState.CANCELLED
    assert await ProcessEngine().poll([request_.request_id]) == {}


async def test_a_debugger_that_cannot_be_reached_does_not_end_the_job(
    manager: JobManager, me: Principal, request_: RunRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def gone(_assembled: Any) -> str:
        raise EngineError("What was to be opened has ended.")

    monkeypatch.setattr(starting, "waiting_debugger", gone)
    view = await manager.submit(me, replace(request_, debug="0", retries=0))
    assert "has ended" in view.to_json()["debugger"]
    assert not view.status.state.ended
    await manager.cancel(me, request_.request_id, force=True)


@pytest.mark.docker
async def test_the_owner_s_command_is_no_wish_of_the_kernel_s(notebook_dir: Path, write: Write, me: Principal) -> None:
    write("a.py", "print(1)\n")
    settings = load_settings()
    settings.notify_command = 'echo "$DLENV_JOB_STATE" > told'
    manager, image = JobManager(settings), docker_images.base_image()
    kernel = replace(me, kernel=new_id(), environment=Environment("bare", image=image), root=str(notebook_dir))
    view = await manager.submit(kernel, RunRequest(script="a.py", cwd=str(notebook_dir)))
    with pytest.raises(DLEnvError, match="rule: notify"):
        await manager.submit(kernel, RunRequest(script="a.py", cwd=str(notebook_dir), notify="true"))
    for _look in range(300):
        if (notebook_dir / "told").exists():
            break
        await asyncio.sleep(0.1)
        await manager.get(me, view.record.id)
    await asyncio.sleep(0.5)
    assert (notebook_dir / "told").read_text() == "SUCCEEDED\n"


@pytest.mark.docker
def test_an_agent_starts_what_a_killed_starter_had_prepared(notebook_dir: Path, write: Write) -> None:
    write("a.py", "print('ran at last')\n")
    job = new_id()
    words = ["run", "a.py", "--image", docker_images.base_image(), "--retries", "1", "--name", job]
    killed = subprocess.run([sys.executable, "-c", KILLED, *words], cwd=notebook_dir, capture_output=True, check=False)
    assert killed.returncode == 9
    with subprocess.Popen([*COMMAND, "agent"], env={**os.environ}) as agent:
        try:
            end = time.monotonic() + 120
            while "ran at last" not in _log_of(job):
                assert time.monotonic() < end
                time.sleep(1)
        finally:
            agent.terminate()
    assert agent.returncode == 0


def _log_of(name: str) -> str:
    import json

    shown = subprocess.run([*COMMAND, "jobs", "--json"], capture_output=True, text=True, check=True).stdout
    found = [job["id"] for job in json.loads(shown) if job["name"] == name]
    if not found:
        return ""
    return subprocess.run([*COMMAND, "logs", found[0]], capture_output=True, text=True, check=False).stdout


@pytest.mark.parametrize(
    "request_", [RunRequest(launcher="torchrun"), RunRequest(nproc=2), RunRequest(debug="0")], ids=lambda each: ""
)
def test_options_of_a_script_want_one(request_: RunRequest) -> None:
    with pytest.raises(InvalidRequest, match="goes with a script"):
        refuse_without_script(request_)
    refuse_without_script(replace(request_, script="a.py"))


def test_options_of_roles_want_them() -> None:
    with pytest.raises(InvalidRequest, match="mean nothing to the launcher torchrun"):
        refuse_roles(RunRequest(servers=1), "torchrun")
    with pytest.raises(InvalidRequest, match="has roles"):
        refuse_roles(RunRequest(debug="0"), "paddle-ps")
    refuse_roles(RunRequest(workers=2), "paddle-ps")


@pytest.mark.parametrize("words", [["--retries", "1"], ["--debug"]])
def test_what_needs_this_command_does_not_go_with_detach(notebook_dir: Path, write: Write, words: list[str]) -> None:
    write("a.py", "print(1)\n")
    argv = [*COMMAND, "run", "a.py", "--detach", *words]
    done = subprocess.run(argv, cwd=notebook_dir, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "does not go with --detach" in done.stderr


def test_a_damaged_record_keeps_nobody_from_starting() -> None:
    from jupyter_dlenv.jobs.waiting import _lost

    folder = JobFolder(new_id())
    folder.path.mkdir(parents=True)
    (folder.path / "record.json").write_text("{")
    (folder.path / "waiting.json").write_text("{}")
    assert _lost(()) == [] or folder.path.name not in _lost(())
    folder.remove()


SAVES_AND_ENDS = """
import time
print("begun", flush=True)
try:
    time.sleep(60)
except KeyboardInterrupt:
    print("saved", flush=True)
"""


async def _until(look: Callable[[], Awaitable[Any]]) -> Any:
    for _look in range(600):
        if found := await look():
            return found
        await asyncio.sleep(0.1)
    raise AssertionError("it did not happen")


async def _ended(manager: JobManager, me: Principal, request: RunRequest, *, stop: bool) -> dict[str, Any]:
    job = (await manager.submit(me, request)).record.id
    log = JobFolder(job).run / "log"

    async def begun() -> bool:
        return log.exists() and "begun" in log.read_text(encoding="utf-8")

    async def final() -> Final | None:
        return (await manager.get(me, job)).final

    await _until(begun)
    if stop:
        await manager.cancel(me, job)
    status = (await _until(final)).status
    assert "saved" in log.read_text(encoding="utf-8")
    return {"state": status.state, "reason": status.reason, "exit_code": status.exit_code, "message": status.message}


@pytest.mark.parametrize(
    ("stop", "state", "reason", "said"),
    [
        (True, JobState.CANCELLED, Reason.STOPPED, "Stopped by its owner"),
        (False, JobState.FAILED, Reason.TIMEOUT, "time limit of 3 s"),
    ],
)
async def test_what_was_told_to_end_has_not_succeeded_though_it_says_so(
    manager: JobManager,
    me: Principal,
    notebook_dir: Path,
    write: Write,
    stop: bool,
    state: JobState,
    reason: Reason,
    said: str,
) -> None:
    write("a.py", SAVES_AND_ENDS)
    limit = {} if stop else {"timeout": 3.0}
    request = RunRequest(script="a.py", cwd=str(notebook_dir), engine="process", python=sys.executable, **limit)
    ended = await _ended(manager, me, request, stop=stop)
    assert said in ended.pop("message")
    assert ended == {"state": state, "reason": reason, "exit_code": 0}


def test_a_retried_job_goes_on_whoever_sees_its_attempt_end(notebook_dir: Path, write: Write) -> None:
    """Only the process that a plain process was submitted to can start its next attempt; it must notice by itself."""
    write(
        "a.py", "import os, time\nprint('begun', flush=True)\ntime.sleep(3)\nexit(os.environ['DLENV_ATTEMPT'] == '1')\n"
    )
    words = [*COMMAND, "run", "a.py", "--engine", "process", "--retries", "1"]
    with subprocess.Popen(words, cwd=notebook_dir, stdout=subprocess.PIPE, text=True) as job:
        assert job.stdout is not None
        assert job.stdout.readline() == "begun\n"
        job.send_signal(signal.SIGSTOP)
        time.sleep(4)
        subprocess.run([*COMMAND, "jobs"], capture_output=True, check=True)  # sees the end first
        job.send_signal(signal.SIGCONT)
        try:
            printed, _ = job.communicate(timeout=60)
        finally:
            job.kill()
    assert job.returncode == 0
    assert "begun" in printed
