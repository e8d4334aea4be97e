"""Horovod with Gloo, without ssh: its processes and the server where they meet are started like any others."""

from __future__ import annotations

from .cluster import PROCESS_LOGS
from .launch import Launch, Process, Program
from .variables import common, world

RENDEZVOUS = """
import sys
from horovod.runner.common.util.hosts import get_host_assignments, parse_hosts
from horovod.runner.http.http_server import RendezvousHandler, RendezvousHTTPServer
server = RendezvousHTTPServer(("", int(sys.argv[1])), RendezvousHandler, 0)
server.init(get_host_assignments(parse_hosts(sys.argv[2]), int(sys.argv[3])))
server.serve_forever()
"""
"""What horovodrun does before it goes round by ssh."""

PATIENCE = {"HOROVOD_GLOO_TIMEOUT_SECONDS": "300"}
"""How long ranks wait for each other at the start: Horovod's own 30 seconds are short where many import at once."""


def command(program: Program) -> Launch:
    """Return the ranks of this node, on node 0 the server too."""
    ranks = tuple(
        Process((program.python, *program.argv), _variables(program, local)) for local in range(program.nproc)
    )
    return Launch(
        env={
            **common(program),
            **{key: value for key, value in PATIENCE.items() if key not in program.env},
            "HOROVOD_CONTROLLER": "gloo",
            "HOROVOD_CPU_OPERATIONS": "gloo",
            "HOROVOD_GLOO_RENDEZVOUS_ADDR": program.addresses[0],
            "HOROVOD_GLOO_RENDEZVOUS_PORT": str(program.port),
        },
        rank_logs=PROCESS_LOGS,
        processes=ranks if program.node_rank else (*ranks, _server(program)),
    )


def _variables(program: Program, local: int) -> dict[str, str]:
    return {
        "HOROVOD_HOSTNAME": f"node-{program.node_rank}",
        "HOROVOD_RANK": str(program.node_rank * program.nproc + local),
        "HOROVOD_SIZE": str(world(program)),
        "HOROVOD_LOCAL_RANK": str(local),
        "HOROVOD_LOCAL_SIZE": str(program.nproc),
        "HOROVOD_CROSS_RANK": str(program.node_rank),
        "HOROVOD_CROSS_SIZE": str(program.nnodes),
    }


def _server(program: Program) -> Process:
    hosts = ",".join(f"node-{node}:{program.nproc}" for node in range(program.nnodes))
    argv = (program.python, "-c", RENDEZVOUS, str(program.port), hosts, str(world(program)))
    return Process(argv, name="rendezvous", serves=True)
