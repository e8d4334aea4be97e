"""A real all-reduce by each launcher that this project runs for real: two processes, and two nodes of two processes."""

from __future__ import annotations

from pathlib import Path

import pytest
from frameworks_images import accelerate, deepspeed, jax, openmpi_4, openmpi_5, starter
from replicas import PYTHON, run

from jupyter_dlenv.spec import JobState

pytestmark = [pytest.mark.docker, pytest.mark.frameworks]

SYSTEM = "/usr/bin/python3"

TORCH = """
import torch, torch.distributed as dist
dist.init_process_group("gloo")
total = torch.tensor([dist.get_rank() + 1.0])
dist.all_reduce(total)
print(f"rank={dist.get_rank()} size={dist.get_world_size()} sum={total.item():g}")
dist.destroy_process_group()
"""
ACCELERATE = """
import torch
from accelerate import Accelerator
accelerator = Accelerator()
total = accelerator.reduce(torch.tensor([accelerator.process_index + 1.0]), "sum")
print(f"rank={accelerator.process_index} size={accelerator.num_processes} sum={total.item():g}")
accelerator.end_training()
"""
# DeepSpeed's own init_distributed() compiles a module on a CPU, which takes a compiler in the image.
DEEPSPEED = (
    """
import argparse, os
import deepspeed, torch, torch.distributed as dist
parser = deepspeed.add_config_arguments(argparse.ArgumentParser())
parser.add_argument("--local_rank", type=int)
assert parser.parse_args().local_rank == int(os.environ["LOCAL_RANK"])
"""
    + TORCH
)
JAX = """
import jax
jax.distributed.initialize()
from jax.experimental import multihost_utils
total = multihost_utils.process_allgather(jax.numpy.array([jax.process_index() + 1.0])).sum()
print(f"rank={jax.process_index()} size={jax.process_count()} sum={total:g}")
"""
MPI = """
from array import array
from mpi4py import MPI
world = MPI.COMM_WORLD
print(f"rank={world.rank} size={world.size} sum={world.allreduce(world.rank + 1.0):g}")
large, total = array("d", [1.0]) * 500_000, array("d", [0.0]) * 500_000
world.Allreduce(large, total)
assert total[-1] == world.size
"""

CASES = {
    "torchrun": ("torchrun", TORCH, starter, SYSTEM),
    "python": ("python", TORCH, starter, SYSTEM),
    "accelerate": ("accelerate", ACCELERATE, accelerate, SYSTEM),
    "accelerate-by-torchrun": ("torchrun", ACCELERATE, accelerate, SYSTEM),
    "deepspeed": ("deepspeed", DEEPSPEED, deepspeed, SYSTEM),
    "jax": ("jax", JAX, jax, PYTHON),
    "mpi-4": ("mpi", MPI, openmpi_4, SYSTEM),
    "mpi-5": ("mpi", MPI, openmpi_5, PYTHON),
}


@pytest.mark.parametrize("nnodes", [1, 2])
@pytest.mark.parametrize("case", CASES)
async def test_ranks_add_up(case: str, nnodes: int, tmp_path: Path) -> None:
    launcher, script, image, python = CASES[case]
    ended = await run(launcher, script, image(), tmp_path, nnodes, python=python, nproc=2)
    size = 2 * nnodes
    total = size * (size + 1) // 2
    assert ended.status.state is JobState.SUCCEEDED, "\\n".join(ended.lines)
    sums = sorted(line for line in ended.lines if "sum=" in line)
    marks = ["", *(f"[{rank}] " for rank in range(1, size))]
    assert sums == sorted(f"{mark}rank={rank} size={size} sum={total}" for rank, mark in enumerate(marks))


MPI_FAILS = """
import sys
from mpi4py import MPI
if MPI.COMM_WORLD.rank == 3:
    sys.exit(7)
MPI.COMM_WORLD.Barrier()
"""


@pytest.mark.parametrize("case", ["mpi-4", "mpi-5"])
async def test_a_rank_of_mpi_that_fails_ends_all_others(case: str, tmp_path: Path) -> None:
    launcher, _, image, python = CASES[case]
    ended = await run(launcher, MPI_FAILS, image(), tmp_path, 2, python=python, nproc=2)
    assert (ended.status.state, ended.status.exit_code) == (JobState.FAILED, 7), "\n".join(ended.lines)
