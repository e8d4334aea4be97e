"""PaddlePaddle's collective training on one node.

``paddle.distributed.launch`` is not used: it writes the whole environment, secrets included, into its log folder,
prints it when a process fails, and repeats the lines of its first process. The variables are those that it sets.
"""

from __future__ import annotations

from .cluster import gpus_of, ranks
from .launch import Launch, Program


def command(program: Program) -> Launch:
    """Return the trainers of this node."""
    return ranks(program, [_variables(program, local) for local in range(program.nproc)])


def _variables(program: Program, local: int) -> dict[str, str]:
    endpoints, rank = _endpoints(program), program.node_rank * program.nproc + local
    env = {
        "PADDLE_MASTER": f"{program.addresses[0]}:{program.port}",
        "PADDLE_NNODES": str(program.nnodes),
        "PADDLE_GLOBAL_SIZE": str(len(endpoints)),
        "PADDLE_GLOBAL_RANK": str(rank),
        "PADDLE_LOCAL_SIZE": str(program.nproc),
        "PADDLE_LOCAL_RANK": str(local),
        "PADDLE_TRAINER_ENDPOINTS": ",".join(endpoints),
        "PADDLE_CURRENT_ENDPOINT": endpoints[rank],
        "PADDLE_TRAINERS_NUM": str(len(endpoints)),
        "PADDLE_TRAINER_ID": str(rank),
        "PADDLE_RANK_IN_NODE": str(local),
    }
    if program.gpus:
        return {**env, "FLAGS_selected_gpus": ",".join(gpus_of(program, local, program.nproc))}
    return {**env, "PADDLE_DISTRI_BACKEND": "gloo"}


def _endpoints(program: Program) -> list[str]:
    """Return an endpoint for each trainer; those of nodes that nobody knows are counted and never called."""
    unknown = [f"node-{node}" for node in range(len(program.addresses), program.nnodes)]
    return [
        f"{address}:{program.port + 1 + node * program.nproc + local}"
        for node, address in enumerate([*program.addresses, *unknown][: program.nnodes])
        for local in range(program.nproc)
    ]
