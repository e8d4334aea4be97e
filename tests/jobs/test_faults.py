"""Faults, made for real: whatever breaks, no line is lost or doubled, one end is told, and nothing is left running."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any

import docker_images
import pytest
from job_truth import Job, follow, numbers, submit
from jupyter_server_process import ServerProcess
from own_daemon import own_daemon

from jupyter_dlenv.engines.registry import load_engine

pytestmark = [pytest.mark.docker, pytest.mark.server, pytest.mark.slow]

ENDLESS = 100_000_000
STEADY_S = 0.05
HEAVY_S = 0.001

Start = Callable[..., Job]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server for the faults that it sees from outside."""
    base = tmp_path_factory.mktemp("faults")
    root = base / "实验 1:a"
    root.mkdir()
    process = ServerProcess(root, base / "server.log")
    process.wait()
    yield process
    process.stop()


@pytest.fixture
def start(server: ServerProcess, tmp_path: Path) -> Iterator[Start]:
    """Start jobs of the numbered script, and end what a failed test leaves of them."""
    jobs: list[Job] = []

    def started(count: int, pause_s: float, **more: object) -> Job:
        jobs.append(submit(server, server.root / f"{tmp_path.name}-{len(jobs)}", count, pause_s, **more))
        return jobs[-1]

    yield started
    for job in jobs:
        server.api("POST", f"/jobs/{job.id}/cancel", {"force": True})


# The server dies ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["docker", "process"])
def test_a_killed_server_costs_a_follower_nothing(engine: str, tmp_path: Path) -> None:
    root, lines = tmp_path / "root", 1_000_000
    root.mkdir()
    first = ServerProcess(root, tmp_path / "first.log")
    first.wait()
    got, cursor = b"", ""
    job = submit(first, root / "job", lines, 0.002, engine=engine)
    with suppress(ConnectionError, HTTPException):
        for head, data in follow(first, job.id):
            got, cursor = got + data, head["cursor"]
            if len(got) > 5_000_000 and first.process.poll() is None:
                first.process.kill()
                first.process.wait()
    assert first.process.poll() is not None
    second = ServerProcess(root, tmp_path / "second.log")
    second.wait()
    try:
        job = Job(second, job.id, job.folder)
        assert job.ask()["state"] in ("RUNNING", "SUCCEEDED")
        for _head, data in follow(second, job.id, cursor):
            got += data
        assert got == job.log
        assert numbers(got) == {0: list(range(lines))}
        job.agreed("SUCCEEDED")
        job.gone()
    finally:
        second.stop()


def test_a_job_whose_server_is_gone_is_ended_by_the_command(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    server = ServerProcess(root, tmp_path / "server.log")
    server.wait()
    job = submit(server, root / "job", ENDLESS, STEADY_S)
    job.up()
    server.process.kill()
    server.process.wait()
    job.by_command("stop", job.id)
    job.gone()
    job.whole()
    server = ServerProcess(root, tmp_path / "server.log")
    server.wait()
    try:
        Job(server, job.id, job.folder).agreed("CANCELLED")
    finally:
        server.stop()


# Docker's daemon is started anew --------------------------------------------------------------------------------------


@pytest.fixture
def away(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[tuple[Any, Job]]:
    """A daemon of the test's own, with a job that runs there."""
    with own_daemon(docker_images.base_image(), live_restore=request.param) as daemon:
        monkeypatch.setenv("DOCKER_HOST", daemon.address)
        docker_images.engine.cache_clear()
        load_engine.cache_clear()
        root = tmp_path / "root"
        root.mkdir()
        server = ServerProcess(root, tmp_path / "server.log")
        try:
            server.wait()
            job = submit(server, root / "job", 20_000, STEADY_S, network="none")
            job.up()
            yield daemon, job
        finally:
            server.stop()
            docker_images.engine.cache_clear()
            load_engine.cache_clear()


@pytest.mark.parametrize("away", [True], indirect=True)
def test_a_job_and_its_follower_outlive_a_restart_of_the_daemon_where_docker_lets_it(away: tuple[Any, Job]) -> None:
    daemon, job = away
    followed = follow(job.server, job.id)
    got = [next(followed)[1]]
    with daemon.killed():
        time.sleep(0.5)
        assert job.ask()["state"] == "RUNNING"
        assert "Docker" in job.ask()["message"]
        got += [next(followed)[1] for _ in range(20)]
    got += [data for _head, data in followed]
    assert job.ended()["state"] == "SUCCEEDED"
    assert numbers(b"".join(got)) == numbers(job.log) == {0: list(range(20_000))}
    job.agreed("SUCCEEDED")
    job.gone()


@pytest.mark.parametrize("away", [False], indirect=True)
def test_a_restart_of_the_daemon_that_ends_the_job_is_told_as_such(away: tuple[Any, Job]) -> None:
    daemon, job = away
    daemon.restart()
    job.ended()
    said = job.agreed("FAILED")
    assert said["reason"]
    assert said["message"]
    job.whole()
    job.gone()


# Containers are removed or killed from outside ------------------------------------------------------------------------


def test_a_container_removed_amid_its_output(start: Start) -> None:
    job = start(ENDLESS, HEAVY_S)
    job.up(lines=100_000)
    docker_images.engine().remove_container(job.containers()[0], force=True)
    job.ended()
    said = job.agreed("LOST")
    assert said["reason"] == "removed from outside"
    assert "removed from outside" in said["message"]
    job.whole()
    job.gone()


@pytest.mark.parametrize("node", [0, 1])
def test_one_of_two_containers_removed_amid_their_output(start: Start, node: int) -> None:
    job = start(ENDLESS, HEAVY_S, nodes=2, nproc=1)
    job.up(ranks=2, lines=20_000)
    docker_images.engine().remove_container(job.containers()[node], force=True)
    job.ended()
    said = job.agreed("FAILED")
    assert said["reason"] == "removed from outside"
    named(job, node)
    job.whole(ranks=2)
    job.gone()


@pytest.mark.parametrize("node", [0, 1])
def test_one_of_two_containers_killed(start: Start, node: int) -> None:
    job = start(ENDLESS, STEADY_S, nodes=2, nproc=1)
    job.up(ranks=2)
    docker_images.engine().kill(job.containers()[node])
    job.ended()
    job.agreed("FAILED")
    named(job, node)
    job.whole(ranks=2)
    job.gone()


def named(job: Job, node: int) -> None:
    """Check that the node is named, to programs and to a person."""
    assert job.ask()["failed_node"] == node
    assert f"node {node}" in job.by_command("jobs", job.id).lower()


# The disk is full -----------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A disk of some MiB that holds the jobs' folders."""
    path = tmp_path / "disk"
    path.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "none", path], capture_output=True, check=False)
    if mount.returncode:
        pytest.skip("needs the right to mount")
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(path))
    (path / "filler").write_bytes(bytes(1 << 20))
    yield path
    subprocess.run(["umount", "--lazy", path], check=True)


def test_a_disk_that_is_full_for_good_ends_the_job_with_that_reason(small_disk: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    server = ServerProcess(root, tmp_path / "server.log")
    server.wait()
    try:
        job = submit(server, root / "job", ENDLESS, HEAVY_S)
        assert job.ended()["state"] == "FAILED"  # told although nothing can be written
        (small_disk / "filler").unlink()
        said = job.agreed("FAILED")
        # Neither its traceback nor the end of its log could be written: what is told of the job says so.
        assert "No space left on device" in said["message"] + said["evidence"]
        seen = numbers(job.log)[0]
        assert seen == list(range(len(seen)))
        job.gone()
    finally:
        server.stop()


def test_a_disk_that_is_full_for_a_while_costs_no_line(small_disk: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    server = ServerProcess(root, tmp_path / "server.log")
    server.wait()
    try:
        job = submit(server, root / "job", 20_000, STEADY_S, "patient")
        job.up()
        filler = small_disk / "filler"
        with suppress(OSError), open(filler, "ab", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        time.sleep(1)
        assert job.ask()["state"] == "RUNNING"
        filler.unlink()
        job.ended()
        job.agreed("SUCCEEDED")
        job.whole()
        job.gone()
    finally:
        server.stop()


# One rank dies, or hangs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("launcher", "nodes"), [("python", 1), ("torchrun", 1), ("python", 2), ("torchrun", 2)])
def test_one_rank_killed(start: Start, torch_image: str, launcher: str, nodes: int) -> None:
    image = torch_image if launcher == "torchrun" else docker_images.base_image()
    job = start(ENDLESS, STEADY_S, nodes=nodes, nproc=2, launcher=launcher, image=image)
    job.up(ranks=2 * nodes)
    victim = 2 * nodes - 1
    job.signal_rank(victim, signal.SIGKILL, node=nodes - 1)
    job.ended()
    said = job.agreed("FAILED")
    assert said["failed_rank"] == victim
    job.whole(ranks=2 * nodes)
    job.gone()


@pytest.mark.parametrize(("launcher", "nodes"), [("python", 1), ("torchrun", 1), ("torchrun", 2)])
def test_a_rank_that_hangs_is_stopped(start: Start, torch_image: str, launcher: str, nodes: int) -> None:
    image = torch_image if launcher == "torchrun" else docker_images.base_image()
    job = start(ENDLESS, STEADY_S, nodes=nodes, nproc=2, launcher=launcher, image=image)
    job.up(ranks=2 * nodes)
    job.signal_rank(1, signal.SIGSTOP)
    assert job.id in job.by_command("stop", job.id)
    job.agreed("CANCELLED")
    job.whole(ranks=2 * nodes)
    job.gone()


@pytest.mark.parametrize("nodes", [1, 2])
def test_a_rank_that_hangs_ends_at_the_time_limit(start: Start, nodes: int) -> None:
    job = start(ENDLESS, STEADY_S, nodes=nodes, nproc=2, launcher="python", timeout=8)
    job.up(ranks=2 * nodes)
    job.signal_rank(1, signal.SIGSTOP)
    job.ended()
    assert job.agreed("FAILED")["reason"] == "time limit"
    job.whole(ranks=2 * nodes)
    job.gone()


def test_a_rank_of_plain_processes_killed(start: Start) -> None:
    job = start(ENDLESS, STEADY_S, nproc=2, launcher="python", engine="process")
    job.up(ranks=2)
    os.kill(int((job.folder / "pid-1").read_text()), signal.SIGKILL)
    job.ended()
    assert job.agreed("FAILED")["failed_rank"] == 1
    job.whole(ranks=2)
    job.gone()
