"""TensorFlow's MultiWorkerMirroredStrategy on one node: equal workers that find each other by ``TF_CONFIG``."""

from __future__ import annotations

import json
from dataclasses import replace

from .cluster import addresses, past_proxies, ranks
from .launch import Launch, Program


def command(program: Program) -> Launch:
    """Return the workers of this node: one with all of its GPUs, else as many as were asked for.

    A single worker gets a cluster of its own, because scripts count workers by reading ``TF_CONFIG``.

    Raises:
        InvalidRequest: An address is not known.
    """
    here = 1 if program.gpus else program.nproc
    endpoints = [
        f"{address}:{program.port + node * here + local}"
        for node, address in enumerate(addresses(program)[: program.nnodes])
        for local in range(here)
    ]
    configs = [tf_config({"worker": endpoints}, "worker", program.node_rank * here + local) for local in range(here)]
    launch = ranks(program, [{"TF_CONFIG": config} for config in configs])
    return replace(launch, env={**launch.env, **past_proxies(program)})


def tf_config(cluster: dict[str, list[str]], role: str, index: int) -> str:
    """Return what TensorFlow reads: all endpoints by role, and which of them this process is."""
    return json.dumps({"cluster": cluster, "task": {"type": role, "index": index}})
