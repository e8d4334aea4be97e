"""MXNet's parameter servers for real."""

from __future__ import annotations

from pathlib import Path

import docker_images
import pytest
from replicas import VENV, run

from jupyter_dlenv.spec import JobState

pytestmark = [pytest.mark.docker, pytest.mark.frameworks]

DOCKERFILE = f"""FROM {docker_images.BASE}
RUN apt-get update && apt-get install -y --no-install-recommends libgomp1 libquadmath0
{VENV}"""
WHEELS = ("mxnet==1.9.1", "numpy<1.24")
SCRIPT = """
import mxnet
store = mxnet.kv.create("dist_sync")
store.init("w", mxnet.nd.ones((2, 3)))
store.push("w", mxnet.nd.ones((2, 3)) * (store.rank + 1))
weights = mxnet.nd.zeros((2, 3))
store.pull("w", out=weights)
print("worker", store.rank, "of", store.num_workers, "has", weights.asnumpy().tolist())
store._barrier()
"""


@pytest.fixture(scope="module")
def image() -> str:
    return docker_images.image_from(DOCKERFILE, "framework-mxnet", wheels=WHEELS)


@pytest.mark.parametrize(("nnodes", "nproc", "servers"), [(1, 2, 1), (2, 1, 1), (2, 2, 2)])
async def test_workers_add_up_on_their_servers(
    image: str, tmp_path: Path, nnodes: int, nproc: int, servers: int
) -> None:
    ended = await run("mxnet", SCRIPT, image, tmp_path, nnodes, nproc=nproc, servers=servers)
    assert ended.status.state is JobState.SUCCEEDED, "\n".join(ended.lines)
    workers = nnodes * nproc
    total = float(sum(range(1, workers + 1)))
    expected = [f"worker {rank} of {workers} has {[[total] * 3] * 2}" for rank in range(workers)]
    assert ended.said("worker") == expected


async def test_a_worker_that_dies_ends_servers_and_scheduler(image: str, tmp_path: Path) -> None:
    # One that raises hangs: it waits for all others before it exits.
    script = SCRIPT.replace("store.init", "import os\nif store.rank == 1: os._exit(3)\nstore.init", 1)
    ended = await run("mxnet", script, image, tmp_path, nnodes=2)
    assert (ended.status.state, ended.status.exit_code) == (JobState.FAILED, 3), "\n".join(ended.lines)
