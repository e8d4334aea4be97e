"""JAX on several processes, for scripts that call ``jax.distributed.initialize()`` without arguments."""

from __future__ import annotations

from dataclasses import replace

from .cluster import gpus_of, past_proxies, ranks
from .launch import Launch, Program
from .variables import world


def command(program: Program) -> Launch:
    """Return the processes of this node."""
    launch = ranks(program, [_variables(program, local) for local in range(program.nproc)])
    return replace(launch, env={**launch.env, **past_proxies(program)})


def _variables(program: Program, local: int) -> dict[str, str]:
    """Return what JAX reads, and what scripts read that pass it on as arguments.

    JAX reads no variable for the number of processes, but those that it finds under Slurm.
    """
    rank = str(program.node_rank * program.nproc + local)
    env = {
        "JAX_COORDINATOR_ADDRESS": f"{program.addresses[0]}:{program.port}",
        "JAX_NUM_PROCESSES": str(world(program)),
        "JAX_PROCESS_ID": rank,
        "SLURM_JOB_ID": "1",
        "SLURM_STEP_NODELIST": program.addresses[0],
        "SLURM_NTASKS": str(world(program)),
        "SLURM_PROCID": rank,
        "SLURM_LOCALID": str(local),
    }
    # Without, a process takes the one GPU that has its number on the node.
    gpus = gpus_of(program, local, program.nproc)
    return {**env, "JAX_LOCAL_DEVICE_IDS": ",".join(gpus)} if gpus else env
