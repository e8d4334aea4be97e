"""Records that other hosts, other versions and accidents have left, and ends of jobs that never ran."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jupyter_dlenv.engines.docker.engine import DockerEngine
from jupyter_dlenv.engines.folder import RunFolder
from jupyter_dlenv.errors import Conflict, DLEnvError, EngineError, EngineUnavailable
from jupyter_dlenv.gpus.leases import Leases
from jupyter_dlenv.jobs import host, starting, waiting
from jupyter_dlenv.jobs.manager import JobManager
from jupyter_dlenv.jobs.principal import Principal
from jupyter_dlenv.jobs.records import Final, JobFolder, JobRecord, readable
from jupyter_dlenv.jobs.retention import remove_old_jobs
from jupyter_dlenv.jobs.starting import Starter, cancelled, refused
from jupyter_dlenv.jobs.waiting import Advancer, keeper_lives, starts_again, waiting_data
from jupyter_dlenv.kernels.records import KernelRecord
from jupyter_dlenv.kernels.sweep import within_reach
from jupyter_dlenv.options import RunRequest
from jupyter_dlenv.settings import load_settings
from jupyter_dlenv.spec import JobState, JobStatus, Reason, new_id

Move = Callable[[str, str], None]
ENDED = Final(JobStatus(JobState.FAILED, 1, Reason.USER_ERROR, "It broke.", 100.0, 200.0))


@pytest.fixture
def me() -> Principal:
    """Whose jobs these are; nobody's of another test."""
    return Principal(f"owner-{new_id()}")


@pytest.fixture
def manager() -> JobManager:
    """A manager of this process."""
    return JobManager(load_settings())


@pytest.fixture
def record(me: Principal) -> JobRecord:
    """A job of plain processes that may be tried again."""
    return JobRecord(new_id(), "train.py", me.owner, "process", "train.py", "python", 1, retries=2)


@pytest.fixture
def folder(record: JobRecord) -> Iterator[JobFolder]:
    """Its folder."""
    made = JobFolder(record.id)
    made.create(record)
    yield made
    if made.path.exists():
        made.remove()


@pytest.fixture
def move(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Move]:
    """Make this process believe that it is on a host with this id, name or start."""

    def become(machine: str = "", boot: str = "") -> None:
        for name, text in (("_MACHINE_ID", machine), ("_BOOT_ID", boot)):
            if text:
                (tmp_path / name).write_text(text, encoding="utf-8")
                monkeypatch.setattr(host, name, tmp_path / name)
        host.this_host.cache_clear()

    become("one", "start-1")
    yield become
    monkeypatch.undo()
    host.this_host.cache_clear()


@pytest.fixture
def away(move: Move, record: JobRecord) -> Iterator[JobFolder]:
    """A job whose host is another one, seen from here."""
    made = JobFolder(record.id)
    made.create(replace(record, host=dict(host.this_host())))
    yield made
    made.remove()


def test_a_host_is_told_by_its_id_and_its_name(move: Move, monkeypatch: pytest.MonkeyPatch) -> None:
    first = dict(host.this_host())
    assert host.is_here(first, plain=True)
    assert host.is_here({}, plain=True)  # of a version that did not note it
    move("one", "start-2")
    assert host.is_here(first, plain=True)  # the same one, started again
    move("two", "start-2")
    assert not host.is_here(first, plain=False)
    move("one", "start-1")
    monkeypatch.setattr(socket, "gethostname", lambda: "clone")
    host.this_host.cache_clear()
    assert not host.is_here(first, plain=True)
    assert host.is_here(first, plain=False)  # a container of that host, which reaches the same daemon
    move("one", "start-2")
    assert not host.is_here(first, plain=False)


@pytest.mark.parametrize("state", [JobState.STARTING, JobState.RUNNING, JobState.PENDING])
async def test_another_host_s_job_is_told_and_left_alone(
    away: JobFolder, record: JobRecord, move: Move, manager: JobManager, me: Principal, state: JobState
) -> None:
    data = waiting_data(RunRequest(request_id=record.id, gpus="1"), me, by_process=False)
    if state is JobState.RUNNING:
        away.mark_started("1")
    elif state is JobState.PENDING:
        away.keep_waiting(data)
    move("two", "start-2")
    told = (await manager.list(me))[0].to_json()
    assert (told["state"], told["finished_at"], told["host"]) == (state.value, None, socket.gethostname())
    assert f"It is on {socket.gethostname()}." in told["message"]
    with pytest.raises(Conflict, match="only there") as refusal:
        await manager.cancel(me, record.id)
    assert f"jupyter dlenv stop {record.id}" in refusal.value.hint
    with pytest.raises(Conflict, match="only there"):
        await manager.remove(me, record.id)
    assert (away.final(), away.stop_intended()) == (None, False)
    advancer = Advancer(Starter(load_settings(), manager.leases), manager._look_after)
    assert record.id not in waiting._lost(())
    assert record.id not in [each.path.name for each in advancer._running()]
    assert not await advancer._start(away, manager.leases.acquire)
    assert keeper_lives(data)  # for all that can be seen from here
    move("one", "start-1")
    known = readable(away)
    assert known is not None
    assert known.here


async def test_a_job_of_this_host_ended_with_its_start(
    away: JobFolder, record: JobRecord, move: Move, manager: JobManager, me: Principal
) -> None:
    away.mark_started("1")
    move("one", "start-2")
    view = await manager.get(me, record.id)
    assert (view.status.state, view.status.reason) == (JobState.FAILED, Reason.REBOOT)


def test_what_never_ran_has_ended_too(folder: JobFolder, record: JobRecord) -> None:
    before = time.time()
    for final in (refused(EngineError("No room.")), cancelled()):
        assert (final.status.finished_at or 0) >= before
        assert final.status.started_at is None
    final = cancelled([ENDED, ENDED])
    assert (final.status.started_at, final.status.attempt) == (100.0, 3)
    assert refused(KeyError("x")).status.message == "KeyError: 'x'"
    folder.finish(Final(JobStatus(JobState.CANCELLED)))  # as earlier versions wrote it
    assert remove_old_jobs(record.owner, most_days=30, most_bytes=0) == 0
    assert folder.path.exists()


async def test_a_job_that_pauses_shows_the_log_of_the_attempt_before(
    folder: JobFolder, record: JobRecord, manager: JobManager, me: Principal
) -> None:
    RunFolder(folder.run).create()
    (folder.run / "log").write_text("of the first\n", encoding="utf-8")
    folder.end_attempt(1, ENDED)
    folder.finish(cancelled(folder.ended_attempts()))
    frames = [frame async for frame in manager.frames(me, record.id, tail=1 << 20)]
    assert b"".join(frame.data for frame in frames) == b"of the first\n"
    job = frames[-1].job
    assert job is not None
    assert (job.attempt, job.log_attempt, job.status.started_at) == (2, 1, 100.0)


@pytest.mark.parametrize("text", ["", "[1]", '{"newer_field": 1}', "\udcff"])
@pytest.mark.parametrize("name", ["record.json", "final.json", "started.json", "waiting.json"])
async def test_one_damaged_file_hides_no_other_job(
    folder: JobFolder, record: JobRecord, manager: JobManager, me: Principal, name: str, text: str
) -> None:
    whole = JobFolder(new_id())
    whole.create(replace(record, id=whole.path.name))
    whole.finish(ENDED)
    (folder.path / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    told = {view.record.id: view.status.state for view in await manager.list(me)}
    assert told[whole.path.name] is JobState.FAILED
    assert (record.id in told) == (name != "record.json")
    if name == "record.json":
        with pytest.raises(DLEnvError, match="cannot be read"):
            await manager.get(me, record.id)
    if name == "final.json":
        assert told[record.id] is JobState.LOST
    assert folder.started() == (name == "started.json")
    assert not starts_again(folder) or text == '{"newer_field": 1}'
    assert remove_old_jobs(me.owner, most_days=1, most_bytes=0) == 1
    assert not whole.path.exists()


async def test_an_engine_that_is_not_there_hides_no_job(record: JobRecord, manager: JobManager, me: Principal) -> None:
    made = JobFolder(record.id)
    made.create(replace(record, engine="of-tomorrow"))
    (view,) = await manager.list(me)
    assert (view.status.state.ended, "of-tomorrow" in view.status.message) == (False, True)
    made.remove()


@pytest.mark.parametrize("error", [ValueError("an accident"), OSError(5, "an accident"), MemoryError("an accident")])
@pytest.mark.parametrize(("retries", "place"), [(0, "prepare_folder"), (1, "prepare_folder"), (1, "assemble")])
async def test_no_accident_leaves_a_job_waiting(
    notebook_dir: Path, manager: JobManager, monkeypatch: pytest.MonkeyPatch, retries: int, error: Exception, place: str
) -> None:
    def fails(*_arguments: Any) -> None:
        raise error

    (notebook_dir / "a.py").write_text("", encoding="utf-8")
    me = Principal(load_settings().owner)
    asked = RunRequest(request_id=new_id(), script="a.py", cwd=str(notebook_dir), engine="process", retries=retries)
    monkeypatch.setattr(starting, place, fails)
    with pytest.raises((type(error), DLEnvError)):
        await manager.submit(me, asked)
    view = await manager.get(me, asked.request_id)
    assert (view.status.state, "an accident" in view.status.message) == (JobState.FAILED, True)
    assert view.status.finished_at
    await manager.remove(me, asked.request_id)


async def test_the_daemon_is_missed_once_and_only_by_who_waits(caplog: pytest.LogCaptureFixture) -> None:
    async def gone() -> None:
        raise EngineUnavailable("Nobody answers.")

    settings = load_settings()

    async def look(_folder: JobFolder) -> None: ...

    advancer = Advancer(Starter(settings, Leases(settings)), look)
    caplog.set_level(logging.WARNING)
    await advancer._quietly(gone())
    assert not caplog.records
    advancer._waits = True
    for _time in range(3):
        await advancer._quietly(gone())
    assert len(caplog.records) == 1


def test_a_record_of_an_engine_that_is_not_there_is_out_of_reach() -> None:
    record = KernelRecord(new_id(), new_id(), {"engine": "of-tomorrow"}, "key", "/", "/", "/", 5.0, place="there")
    assert not within_reach(record)
    assert not within_reach(replace(record, place=""))


def test_a_socket_has_one_place_whatever_it_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "other").symlink_to("run")
    real, other = (f"unix://{os.path.realpath(tmp_path)}/{name}/docker.sock" for name in ("run", "other"))
    assert DockerEngine(real).place == DockerEngine(other).place == DockerEngine(f"http+{other}").place == real
    monkeypatch.setenv("DOCKER_HOST", other)
    assert DockerEngine().place == real
    assert DockerEngine("tcp://gpu-1:2376").place == "tcp://gpu-1:2376"
