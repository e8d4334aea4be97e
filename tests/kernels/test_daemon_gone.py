"""A kernel whose Docker daemon is killed under it, with a daemon of the test's own."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import docker_images
import pytest
from clients import environment, notebook
from own_daemon import Daemon, own_daemon

from jupyter_dlenv.engines.registry import load_engine
from jupyter_dlenv.kernels.board import BOARD, Phase

pytestmark = [pytest.mark.docker, pytest.mark.slow]


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    """A daemon that this process's engine talks to."""
    with own_daemon(docker_images.base_image()) as mine:
        monkeypatch.setenv("DOCKER_HOST", mine.address)
        load_engine.cache_clear()
        try:
            yield mine
        finally:
            load_engine.cache_clear()


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait for a condition."""
    for _ in range(600):
        if condition():
            return
        await asyncio.sleep(0.05)
    raise AssertionError("it did not come true")


async def test_a_kernel_outlives_its_daemon_and_its_death_is_still_told(daemon: Daemon, notebook_dir: Path) -> None:
    environment("orphan", image=docker_images.base_image(), network="none")
    async with notebook("orphan", notebook_dir) as book:
        kernel = str(book.manager.kernel_id)

        def message() -> str:
            report = BOARD.get(kernel)
            return report.message or report.why if report else ""

        with daemon.killed():
            await eventually(lambda: "Docker does not answer" in message())
            assert await book.manager.is_alive()
            assert (await book.run("print(6 * 7)")).text == "42\n"
            book.client.execute("import os; os._exit(3)")
            await eventually(lambda: "Docker is gone" in message())
            report = BOARD.get(kernel)
            assert report is not None
            assert report.phase is Phase.ENDED
            await eventually(lambda: not book.manager.has_kernel)


async def test_a_kernel_is_as_before_when_its_daemon_is_back(daemon: Daemon, notebook_dir: Path) -> None:
    environment("orphan", image=docker_images.base_image(), network="none")
    async with notebook("orphan", notebook_dir) as book:
        kernel = str(book.manager.kernel_id)
        container = subprocess.run(daemon.client("ps", "-q"), capture_output=True, check=True).stdout
        with daemon.killed():
            await eventually(lambda: "Docker does not answer" in getattr(BOARD.get(kernel), "message", ""))
        await eventually(lambda: getattr(BOARD.get(kernel), "message", "?") == "")
        assert subprocess.run(daemon.client("ps", "-q"), capture_output=True, check=True).stdout == container
        assert (await book.run("print(6 * 7)")).text == "42\n"
        assert await book.manager.is_alive()
