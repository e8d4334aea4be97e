"""The toolkit's way for real: a device request travels through a daemon to the hook; and what a reload takes away."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import docker_images
import pytest
from gpu_daemon import GpuDaemon, gpu_daemon, sleeper, stand_in_device, unit

from jupyter_dlenv.engines.docker.engine import DockerEngine
from jupyter_dlenv.engines.docker.request import command_line
from jupyter_dlenv.errors import NoGpu
from jupyter_dlenv.gpus.access import choose_access, daemon_path, gather, grant
from jupyter_dlenv.gpus.reach import explain_loss, lost
from jupyter_dlenv.resources import GpuAccess, GpuGrant
from jupyter_dlenv.spec import JobSpec

pytestmark = [pytest.mark.docker, pytest.mark.slow]

PYTHON = "/usr/bin/python3"
LIST_NODES = [PYTHON, "-c", "import glob; print(*sorted(glob.glob('/dev/nvidia*')))"]


@pytest.fixture(scope="module")
def daemon() -> Iterator[GpuDaemon]:
    """A daemon that finds the hook."""
    with gpu_daemon() as mine:
        yield mine


@asynccontextmanager
async def running(engine: DockerEngine, spec: JobSpec) -> AsyncIterator[str]:
    """Run a spec and yield its container."""
    job = await engine.submit(engine.plan(spec))
    try:
        yield job.native_id
    finally:
        await engine.remove(spec.id)


def two_gpus(engine: DockerEngine) -> GpuGrant:
    """Return a grant of the first and the third GPU, the way that this engine's daemon can."""
    facts = gather(engine)
    return grant([unit(0), unit(2)], choose_access("auto", facts), facts)


async def said(engine: DockerEngine, container: str, argv: list[str]) -> str:
    """Return what a command in a container says."""
    code, output = await engine.execute(container, argv)
    assert code == 0, output
    return output.decode().strip()


async def test_the_hook_is_given_exactly_the_leased_gpus(daemon: GpuDaemon) -> None:
    gpus = two_gpus(daemon.engine)
    assert gpus.access is GpuAccess.TOOLKIT
    async with running(daemon.engine, sleeper(daemon.engine, gpus)) as container:
        (call,) = daemon.handed_out(container)
        assert call["uuids"] == [unit(0).uuid, unit(2).uuid]
        assert call["arguments"] == ["prestart"]
        assert set(call["capabilities"].split(",")) == {"compute", "utility"}
        nodes = "/dev/nvidia-uvm /dev/nvidia0 /dev/nvidia1 /dev/nvidiactl"
        assert await said(daemon.engine, container, LIST_NODES) == nodes
        visible = await said(daemon.engine, container, ["printenv", "NVIDIA_VISIBLE_DEVICES"])
        assert visible == f"{unit(0).uuid},{unit(2).uuid}"


async def test_without_a_lease_there_is_no_gpu(daemon: GpuDaemon) -> None:
    spec = sleeper(daemon.engine, GpuGrant(), env={"NVIDIA_VISIBLE_DEVICES": "all"})
    async with running(daemon.engine, spec) as container:
        assert daemon.handed_out(container) == []
        assert await said(daemon.engine, container, LIST_NODES) == ""
        assert await said(daemon.engine, container, ["printenv", "NVIDIA_VISIBLE_DEVICES"]) == "void"


async def test_the_command_for_people_hands_out_the_same(daemon: GpuDaemon) -> None:
    spec = sleeper(daemon.engine, two_gpus(daemon.engine))
    words = shlex.split(command_line(spec))
    words[1:2] = ["--host", daemon.engine.info().address, "run", "--detach"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    container = done.stdout.strip()
    try:
        (call,) = daemon.handed_out(container)
        assert call["uuids"] == [unit(0).uuid, unit(2).uuid]
    finally:
        await daemon.engine.discard(container)


async def test_a_hook_that_fails_is_told_in_its_own_words() -> None:
    with gpu_daemon(DLENV_HOOK_FAIL="initialization error: nvml error: driver not loaded") as broken:
        spec = sleeper(broken.engine, two_gpus(broken.engine))
        with pytest.raises(NoGpu, match="driver not loaded") as caught:
            await broken.engine.submit(broken.engine.plan(spec))
        assert "--nproc" in caught.value.hint
        assert await broken.engine.list() == []


async def test_a_daemon_without_the_hook_gives_the_remedy() -> None:
    docker_images.engine()
    engine = DockerEngine()
    if gather(engine).hook:
        pytest.skip("this host has the toolkit")
    spec = sleeper(engine, GpuGrant((unit(0).uuid,), devices=(unit(0).uuid,)))
    try:
        with pytest.raises(NoGpu, match="NVIDIA Container Toolkit is not set up") as caught:
            await engine.submit(engine.plan(spec))
        assert await engine.poll([spec.id]) == {}, "what could not start is still there"
    finally:
        await engine.remove(spec.id)
    assert "nvidia-ctk runtime configure" in caught.value.hint
    assert "--nproc" in caught.value.hint


def test_the_daemon_s_own_path_decides(daemon: GpuDaemon) -> None:
    address = daemon.engine.info().address
    assert daemon_path(address).startswith(str(Path(__file__).with_name("hook")))
    assert gather(daemon.engine).hook is True
    assert daemon_path("unix:///nowhere", Path("/nowhere")) == ""


# Loss -----------------------------------------------------------------------------------------------------------------


def take_back(container: str) -> None:
    """Do to a container's device rules what a reload of systemd does."""
    folders = list(Path("/sys/fs/cgroup/devices").rglob(container))
    if not folders:
        pytest.skip("device rules are a program in the kernel here, which nothing but a reload of systemd replaces")
    major, minor = stand_in_device()
    (folders[0] / "devices.deny").write_text(f"c {major}:{minor} rwm")


@pytest.mark.parametrize("python", [PYTHON, "/no/python"])
async def test_lost_gpus_are_noticed(daemon: GpuDaemon, python: str) -> None:
    async with running(daemon.engine, sleeper(daemon.engine, two_gpus(daemon.engine))) as container:
        assert await lost(daemon.engine, container, python) == ()
        take_back(container)
        found = await lost(daemon.engine, container, python)
        assert set(found) == {"/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia0", "/dev/nvidia1"}
        error = explain_loss(found)
        assert "/dev/nvidia0" in error.message
        assert "Restart the kernel" in error.hint


async def test_a_container_without_gpus_has_lost_none(daemon: GpuDaemon) -> None:
    async with running(daemon.engine, sleeper(daemon.engine, GpuGrant())) as container:
        assert await lost(daemon.engine, container, PYTHON) == ()
        take_back(container)
        assert await lost(daemon.engine, container, PYTHON) == ()


async def test_a_file_s_mode_is_no_loss(daemon: GpuDaemon) -> None:
    async with running(daemon.engine, sleeper(daemon.engine, two_gpus(daemon.engine))) as container:
        pid = daemon.engine.call(lambda client: client.inspect_container(container))["State"]["Pid"]
        os.chmod(f"/proc/{pid}/root/dev/nvidia0", 0)
        assert await lost(daemon.engine, container, PYTHON) == ()
        assert await lost(daemon.engine, container, "/no/python") == ()


async def test_nobody_can_look_into_an_ended_container(daemon: GpuDaemon) -> None:
    async with running(daemon.engine, sleeper(daemon.engine, GpuGrant(), argv=("/bin/true",))) as container:
        assert await daemon.engine.wait(container, 60) is not None
        assert await lost(daemon.engine, container, PYTHON) == ()
    assert await lost(daemon.engine, container, PYTHON) == ()
