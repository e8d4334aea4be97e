"""MXNet's parameter servers and workers on one node, which find each other by their scheduler.

The same script runs in all roles: in servers and the scheduler ``import mxnet`` does not return before all workers are
done. The scheduler says which worker is which, so ``kv.rank`` need not be the number in a process's name.
"""

from __future__ import annotations

import ipaddress
from dataclasses import replace

from .cluster import PROCESS_LOGS, Task, processes, tasks
from .launch import OWN_IP, Launch, Program
from .variables import common, own_address


def command(program: Program) -> Launch:
    """Return the workers and servers of this node, on node 0 the scheduler too.

    Raises:
        InvalidRequest: A node has nothing to do.
    """
    # Nobody asks for any other address than the scheduler's.
    alike = replace(program, addresses=program.addresses[:1] * program.nnodes)
    scheduler, *others = tasks(alike, "worker", "server", leader="scheduler")
    own = _own_ip(program)
    env = {
        **common(program),
        # The scheduler binds to it, which takes no name.
        "DMLC_PS_ROOT_URI": scheduler.address if program.node_rank else own,
        "DMLC_PS_ROOT_PORT": str(scheduler.port),
        "DMLC_NODE_HOST": own,
        "DMLC_NUM_WORKER": str(sum(task.role == "worker" for task in others)),
        "DMLC_NUM_SERVER": str(sum(task.role == "server" for task in others)),
    }
    # The scheduler comes last, so that the first process of all is a worker.
    here = processes(program, [*others, scheduler], _variables, worker="worker")
    return Launch(env=env, rank_logs=PROCESS_LOGS, processes=here)


def _own_ip(program: Program) -> str:
    address = own_address(program)
    try:
        return str(ipaddress.ip_address(address))
    except ValueError:
        return OWN_IP


def _variables(task: Task) -> dict[str, str]:
    env = {"DMLC_ROLE": task.role}
    return env if task.role == "scheduler" else {**env, f"DMLC_{task.role.upper()}_ID": str(task.index)}
