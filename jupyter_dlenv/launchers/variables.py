"""The variables that several launchers set."""

from __future__ import annotations

from .launch import OWN_IP, Program


def common(program: Program) -> dict[str, str]:
    """Return what all processes get: output at once and, beside others, one thread each, as torchrun does it."""
    env = {"PYTHONUNBUFFERED": "1"}
    if program.nproc > 1:
        env["OMP_NUM_THREADS"] = "1"
    return {key: value for key, value in env.items() if key not in program.env}


def without_gpus(program: Program) -> dict[str, str]:
    """Return what Accelerate needs to be told where there is no GPU: else each rank trains for itself."""
    return {} if program.gpus or "ACCELERATE_USE_CPU" in program.env else {"ACCELERATE_USE_CPU": "true"}


def own_address(program: Program) -> str:
    """Return where this node is found."""
    known = program.addresses[program.node_rank : program.node_rank + 1]
    return known[0] if known else OWN_IP


def world(program: Program) -> int:
    """Return the number of processes of the whole job."""
    return program.nnodes * program.nproc


def rank_variables(program: Program, local: int) -> dict[str, str]:
    """Return what tells a process which rank it is and where rank 0 is, under the names that PyTorch made usual."""
    return {
        "RANK": str(program.node_rank * program.nproc + local),
        "LOCAL_RANK": str(local),
        "WORLD_SIZE": str(world(program)),
        "LOCAL_WORLD_SIZE": str(program.nproc),
        "NODE_RANK": str(program.node_rank),
        "MASTER_ADDR": program.addresses[0],
        "MASTER_PORT": str(program.port),
    }


def rendezvous_variables(program: Program) -> dict[str, str]:
    """Return what torchrun reads of several nodes: node k has rank k, and node 0 is where they meet."""
    return {
        "PET_NNODES": str(program.nnodes),
        "PET_NPROC_PER_NODE": str(program.nproc),
        "PET_NODE_RANK": str(program.node_rank),
        "PET_MASTER_ADDR": program.addresses[0],
        "PET_MASTER_PORT": str(program.port),
        "PET_LOCAL_ADDR": own_address(program),
    }
