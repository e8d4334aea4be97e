"""PaddlePaddle's parameter servers and trainers on one node.

``paddle.distributed.launch`` is not used: with ``--trainer_num`` it goes on when all trainers have ended, and
``--worker_num`` knows one node only. The variables are those that it sets.
"""

from __future__ import annotations

from .cluster import PROCESS_LOGS, Task, processes, tasks
from .launch import Launch, Program
from .variables import common

_GLOO_BY_HTTP = {"PADDLE_WITH_GLOO": "1", "PADDLE_GLOO_RENDEZVOUS": "3"}  # without it barriers of trainers do nothing


def command(program: Program) -> Launch:
    """Return the trainers and servers of this node; the job is done when all trainers are.

    Raises:
        InvalidRequest: A node has nothing to do, or an address is not known.
    """
    job = tasks(program, "trainer", "server")
    servers = [task for task in job if task.role == "server"]
    trainers = [task for task in job if task.role == "trainer"]
    env = {
        **common(program),
        **_GLOO_BY_HTTP,
        "PADDLE_GLOO_HTTP_ENDPOINT": f"{servers[0].address}:{program.port + len(job)}",
        "PADDLE_PSERVERS_IP_PORT_LIST": ",".join(task.endpoint for task in servers),
        "PADDLE_TRAINER_ENDPOINTS": ",".join(task.endpoint for task in trainers),
        "PADDLE_TRAINERS_NUM": str(len(trainers)),
        "PADDLE_NNODES": str(program.nnodes),
    }
    here = processes(program, job, _variables, worker="trainer", serving=("server",))
    return Launch(env=env, rank_logs=PROCESS_LOGS, processes=here)


def _variables(task: Task) -> dict[str, str]:
    role = "PSERVER" if task.role == "server" else "TRAINER"
    env = {"TRAINING_ROLE": role, "PADDLE_ROLE": role, "POD_IP": task.address, "PADDLE_PORT": str(task.port)}
    return env if role == "PSERVER" else {**env, "PADDLE_TRAINER_ID": str(task.index)}
