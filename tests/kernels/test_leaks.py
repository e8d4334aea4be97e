"""Kernels that were started and ended leave nothing: no container, folder, descriptor or thread."""

from __future__ import annotations

import gc
import os
import threading
from pathlib import Path

import docker_images
import pytest
from clients import environment, notebook

from jupyter_dlenv.engines.docker.engine import DockerEngine
from jupyter_dlenv.engines.docker.request import LABEL_PREFIX
from jupyter_dlenv.paths import kernels_dir

pytestmark = [pytest.mark.docker, pytest.mark.slow]

NAME = "short-lived"
WARM_UP, CYCLES = 4, 10


def things() -> dict[str, int]:
    """Return how many there are now of what this process' kernels take."""
    gc.collect()
    filters = {"label": f"{LABEL_PREFIX}instance={os.getpid()}"}
    found = DockerEngine().call(lambda client: client.containers(all=True, filters=filters))
    return {
        "containers": len(found),
        "folders": len(list(kernels_dir().iterdir())) if kernels_dir().is_dir() else 0,
        "descriptors": len(os.listdir("/proc/self/fd")),
        # The pools that asyncio keeps for each loop grow to a fixed size, whatever is started.
        "threads": len([each for each in threading.enumerate() if not each.name.startswith("asyncio_")]),
    }


async def test_kernels_that_come_and_go_leave_nothing(notebook_dir: Path) -> None:
    environment(NAME, image=docker_images.base_image(), network="none")

    async def cycle() -> None:
        async with notebook(NAME, cwd=notebook_dir) as kernel:
            assert (await kernel.run("print(6 * 7)")).text == "42\n"

    for _time in range(WARM_UP):
        await cycle()
    before = things()
    for _time in range(CYCLES):
        await cycle()
    after = things()
    assert {kind: after[kind] - before[kind] for kind in after if after[kind] > before[kind]} == {}
