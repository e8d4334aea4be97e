"""TensorFlow's ParameterServerStrategy on one node: a chief that trains, workers and servers that obey it.

The same script runs in all roles and asks ``TF_CONFIG`` which one it has. Workers and servers wait in
``tf.distribute.Server(...).join()``, which never returns: the job is done when the chief is.
"""

from __future__ import annotations

from ..spec import End
from .cluster import PROCESS_LOGS, Task, past_proxies, processes, tasks
from .launch import Launch, Program
from .tensorflow import tf_config
from .variables import common

_FAIL_FAST = {"GRPC_FAIL_FAST": "use_caller"}  # else the chief waits for a dead worker instead of hearing of it


def command(program: Program) -> Launch:
    """Return the processes of this node, on node 0 the chief first.

    Raises:
        InvalidRequest: A node has nothing to do, or an address is not known.
    """
    job = tasks(program, "worker", "ps", leader="chief")
    cluster: dict[str, list[str]] = {}
    for task in job:
        cluster.setdefault(task.role, []).append(task.endpoint)

    def variables(task: Task) -> dict[str, str]:
        return {"TF_CONFIG": tf_config(cluster, task.role, task.index)}

    here = processes(program, job, variables, worker="worker", serving=("worker", "ps"))
    env = {**common(program), **past_proxies(program), **_FAIL_FAST}
    return Launch(env=env, rank_logs=PROCESS_LOGS, processes=here, ends=End.LEADER)
