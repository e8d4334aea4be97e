"""The engine contract, held against every engine, for real."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import docker_images
import pytest

from jupyter_dlenv.engines import shim
from jupyter_dlenv.engines.base import Engine
from jupyter_dlenv.engines.docker.engine import DockerEngine
from jupyter_dlenv.engines.docker.request import RUN_DIR, SHIM
from jupyter_dlenv.engines.folder import RunFolder
from jupyter_dlenv.engines.process import ProcessEngine
from jupyter_dlenv.errors import Conflict, InvalidRequest, JobNotFound, Unsupported
from jupyter_dlenv.identity import caller_identity
from jupyter_dlenv.resources import Mount, Resources
from jupyter_dlenv.spec import JobSpec, JobState, JobStatus, Reason, Role, new_id

PATIENCE_S = 60


@dataclass
class Bench:
    """An engine and what it takes to run a line of Python on it."""

    engine: Engine
    folder: Path
    started: list[str]
    in_container: bool

    def spec(self, code: str, *, attempt: int = 1, job_id: str | None = None) -> JobSpec:
        """Return a spec that runs a line of Python under the shim."""
        job_id = job_id or new_id()
        run = self.folder / f"{job_id}-{attempt}"
        python = "/usr/bin/python3" if self.in_container else sys.executable
        argv = (python, "-u", "-c", code)
        who = caller_identity(self.folder)
        folder = RunFolder(run)
        folder.create(*((who.uid, who.gid) if self.in_container else ()))
        folder.write_launch(argv=argv, cwd="/tmp", grace_s=(1, 1))
        spec = JobSpec(
            id=job_id,
            role=Role.TRAINER,
            argv=argv,
            workdir="/tmp",
            run_dir=str(run),
            owner="contract",
            python=python,
            env={"PATH": "/usr/bin:/bin"},
            network="host",
            attempt=attempt,
        )
        if not self.in_container:
            return spec
        mounts = (Mount(str(run), RUN_DIR), Mount(shim.FOLDER, SHIM, read_only=True))
        image = docker_images.image_id(docker_images.base_image())
        return replace(spec, image=image, image_ref="base", mounts=mounts, identity=who, network="none")

    async def start(self, code: str) -> str:
        """Submit a line of Python and return its id."""
        spec = self.spec(code)
        self.started.append(spec.id)
        await self.engine.submit(self.engine.plan(spec))
        return spec.id

    async def status(self, job_id: str) -> JobStatus:
        """Return the status of a job that the engine must know."""
        return (await self.engine.poll([job_id]))[job_id]

    async def until(self, job_id: str, good: Callable[[JobStatus], bool]) -> JobStatus:
        """Return the first status that is good."""
        for _ in range(PATIENCE_S * 20):
            status = await self.status(job_id)
            if good(status):
                return status
            await asyncio.sleep(0.05)
        pytest.fail(f"still {status}")

    async def ended(self, job_id: str) -> JobStatus:
        """Return the status at the end."""
        return await self.until(job_id, lambda status: status.state.ended)

    async def said(self, job_id: str, text: bytes) -> None:
        """Wait until the log holds a text."""
        async for chunk in self.engine.logs(job_id, follow=True):
            if text in chunk.data:
                return
        pytest.fail(f"the job ended without saying {text!r}")


@pytest.fixture(params=["process", pytest.param("docker", marks=pytest.mark.docker)])
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    """Each engine in turn; whatever a test started is removed."""
    in_container = request.param == "docker"
    if in_container:
        docker_images.base_image()
    engine: Engine = DockerEngine() if in_container else ProcessEngine(tmp_path / "state")
    made = Bench(engine, tmp_path, [], in_container)
    yield made
    for job_id in made.started:
        await engine.remove(job_id)


async def test_a_job_succeeds_with_its_exit_code_seen(bench: Bench) -> None:
    status = await bench.ended(await bench.start("print('hello')"))
    assert (status.state, status.exit_code) == (JobState.SUCCEEDED, 0)
    assert status.started_at is not None
    assert status.finished_at is not None
    assert status.finished_at >= status.started_at


async def test_a_failure_keeps_exit_code_and_reason(bench: Bench) -> None:
    status = await bench.ended(await bench.start("raise SystemExit(7)"))
    assert (status.state, status.exit_code, status.reason) == (JobState.FAILED, 7, Reason.USER_ERROR)


async def test_logs_follow_to_the_last_byte(bench: Bench) -> None:
    job = await bench.start("import time\nfor i in range(5): print('line', i); time.sleep(0.1)\nprint('last', end='')")
    data = b"".join([chunk.data async for chunk in bench.engine.logs(job, follow=True)])
    assert data.split() == b"line 0 line 1 line 2 line 3 line 4 last".split()
    assert (await bench.status(job)).state.ended


async def test_a_cursor_goes_on_where_it_was(bench: Bench) -> None:
    job = await bench.start("print('one'); print('two')")
    await bench.ended(job)
    first = [chunk async for chunk in bench.engine.logs(job)]
    assert b"".join(chunk.data for chunk in first) == b"one\ntwo\n"
    assert [chunk.data async for chunk in bench.engine.logs(job, first[-1].cursor)] in ([], [b""])
    with pytest.raises(InvalidRequest):
        _ = [chunk async for chunk in bench.engine.logs(job, "999999999")]


async def test_a_progress_bar_moves(bench: Bench) -> None:
    code = "import time\nfor i in range(40): print(f'\\r{i}/40', end=''); time.sleep(0.1)"
    job = await bench.start(code)
    seen = {text async for chunk in bench.engine.logs(job, follow=True) for text in chunk.open_lines.values()}
    assert len(seen) > 5


async def test_a_signal_reaches_what_runs(bench: Bench) -> None:
    code = (
        "import signal, time\nsignal.signal(signal.SIGINT, lambda *a: (print('caught'), exit(3)))\n"
        "print('ready')\ntime.sleep(60)"
    )
    job = await bench.start(code)
    await bench.said(job, b"ready")
    await bench.engine.signal(job, signal.SIGINT)
    assert (await bench.ended(job)).exit_code == 3


async def test_a_stubborn_job_is_killed_with_all_it_started(bench: Bench) -> None:
    code = (
        "import os, signal, subprocess, sys, time\n"
        "[signal.signal(s, signal.SIG_IGN) for s in (signal.SIGINT, signal.SIGTERM)]\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True)\n"
        "print('ready')\ntime.sleep(600)"
    )
    job = await bench.start(code)
    await bench.said(job, b"ready")
    await bench.engine.cancel(job, grace_s=2)
    status = await bench.status(job)
    assert status.state is JobState.FAILED
    assert status.exit_code == 137
    await bench.engine.cancel(job)


async def test_the_same_submission_is_one_job(bench: Bench) -> None:
    spec = bench.spec("import time; time.sleep(60)")
    bench.started.append(spec.id)
    plan = bench.engine.plan(spec)
    first, second = await bench.engine.submit(plan), await bench.engine.submit(plan)
    assert first.native_id == second.native_id
    assert [job.id for job in await bench.engine.list("contract")].count(spec.id) == 1


async def test_another_spec_of_the_same_id_is_a_conflict(bench: Bench) -> None:
    spec = bench.spec("import time; time.sleep(60)")
    bench.started.append(spec.id)
    await bench.engine.submit(bench.engine.plan(spec))
    with pytest.raises(Conflict):
        await bench.engine.submit(bench.engine.plan(replace(spec, name="other")))


async def test_a_second_attempt_is_told_instead_of_the_first(bench: Bench) -> None:
    job = await bench.start("raise SystemExit(1)")
    assert (await bench.ended(job)).exit_code == 1
    again = bench.spec("pass", attempt=2, job_id=job)
    await bench.engine.submit(bench.engine.plan(again))
    ended = await bench.ended(job)
    assert (ended.exit_code, ended.attempt) == (0, 2)


async def test_an_unknown_id_is_never_guessed(bench: Bench) -> None:
    unknown = new_id()
    assert await bench.engine.poll([unknown]) == {}
    with pytest.raises(JobNotFound):
        await bench.engine.signal(unknown, signal.SIGINT)
    with pytest.raises(JobNotFound):
        _ = [chunk async for chunk in bench.engine.logs(unknown)]
    await bench.engine.cancel(unknown)
    await bench.engine.remove(unknown)


async def test_owners_are_told_apart(bench: Bench) -> None:
    job = await bench.start("pass")
    assert job in [found.id for found in await bench.engine.list("contract")]
    assert job not in [found.id for found in await bench.engine.list("somebody else")]


async def test_a_removed_job_is_unknown(bench: Bench) -> None:
    job = await bench.start("import time; time.sleep(60)")
    await bench.engine.remove(job)
    assert await bench.engine.poll([job]) == {}


async def test_a_plan_asks_nothing_and_says_the_command(bench: Bench) -> None:
    assert "print(1)" in bench.engine.plan(bench.spec("print(1)")).command


async def test_what_an_engine_lacks_is_an_error(bench: Bench) -> None:
    spec = replace(bench.spec("pass"), resources=Resources(memory_bytes=1 << 30))
    if bench.engine.capabilities.limits:
        (body,) = bench.engine.plan(spec).requests
        assert body["HostConfig"]["Memory"] == 1 << 30
    else:
        with pytest.raises(Unsupported, match="--memory"):
            bench.engine.plan(spec)
