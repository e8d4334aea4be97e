"""Which process of a job is on which node, for frameworks that bring no launcher of their own."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from ..errors import InvalidRequest
from ..i18n import _
from ..spec import RankLogs
from .launch import Launch, Process, Program
from .variables import common

PROCESS_LOGS = RankLogs(pattern="ranks/*/std*.log", rank_part=-2)
"""Where the processes of :attr:`Launch.processes` write."""


@dataclass(frozen=True)
class Task:
    """One process of a job of several roles.

    Attributes:
        role: What the framework calls it, such as ``ps``.
        index: Its number in that role.
        name: Both, for a leader the role alone.
        node: Rank of the node that runs it.
        address: Where the others find it.
        port: A port of its own, different from all others' of the job.
    """

    role: str
    index: int
    name: str
    node: int
    address: str
    port: int

    @property
    def endpoint(self) -> str:
        """Address and port."""
        return f"{self.address}:{self.port}"


def addresses(program: Program) -> tuple[str, ...]:
    """Return where each node is found.

    Raises:
        InvalidRequest: Only some are known.
    """
    if len(program.addresses) < program.nnodes:
        raise InvalidRequest(
            _("This launcher needs the addresses of all {nodes} nodes, and {known} of them is known.").format(
                nodes=program.nnodes, known=len(program.addresses)
            ),
            hint=_("Leave out --node-rank and --master: then all nodes run on this host."),
        )
    return program.addresses


def past_proxies(program: Program) -> dict[str, str]:
    """Return the variable that keeps gRPC between nodes away from an HTTP proxy, where it would wait for ever."""
    others = program.env.get("no_grpc_proxy") or program.env.get("no_proxy")
    return {"no_grpc_proxy": ",".join([*program.addresses, *([others] if others else [])])}


def ranks(program: Program, variables: Sequence[Mapping[str, str]]) -> Launch:
    """Return the launch of equal processes with their variables; a single one is the command itself."""
    argv = (program.python, *program.argv)
    if len(variables) == 1:
        return Launch(argv, {**common(program), **variables[0]})
    processes = tuple(Process(argv, env) for env in variables)
    return Launch(env=common(program), rank_logs=PROCESS_LOGS, processes=processes)


def tasks(program: Program, worker: str, server: str, leader: str = "") -> tuple[Task, ...]:
    """Return all processes of a job with servers, in the order of their ports: the leader, workers, servers.

    The leader is on node 0. Workers are in blocks, as ranks are. Servers take turns, from the first node without a
    worker on where there is one, else from node 0 on.

    Args:
        worker, server, leader: What the framework calls the roles; without a leader there is none.

    Raises:
        InvalidRequest: A node has nothing to do, or an address is not known.
    """
    where, nodes = addresses(program), program.nnodes
    workers, servers = program.workers or nodes * program.nproc, program.servers or 1
    if workers + servers < nodes:
        raise InvalidRequest(
            _("There is less to start (workers: {workers}, servers: {servers}) than there are nodes: {nodes}.").format(
                workers=workers, servers=servers, nodes=nodes
            ),
            hint=f"--workers {nodes * program.nproc}",
        )
    found = [(leader, 0, leader, 0)] if leader else []
    found += [(worker, i, f"{worker} {i}", i * nodes // max(workers, nodes)) for i in range(workers)]
    found += [(server, i, f"{server} {i}", (workers + i) % nodes) for i in range(servers)]
    return tuple(
        Task(role, index, name, node, where[node], program.port + number)
        for number, (role, index, name, node) in enumerate(found)
    )


def processes(
    program: Program,
    job: Sequence[Task],
    variables: Callable[[Task], Mapping[str, str]],
    *,
    worker: str,
    serving: Collection[str] = (),
) -> tuple[Process, ...]:
    """Return this node's part of a job.

    Args:
        job: All of its tasks.
        variables: What a task gets on top of what all get.
        worker: The role whose processes have the node's GPUs; all others have none.
        serving: Roles that never end by themselves.
    """
    here = [task for task in job if task.node == program.node_rank]
    workers = [task for task in here if task.role == worker]

    def gpus(task: Task) -> dict[str, str]:
        if not program.gpus:
            return {}
        if task not in workers:
            return {"CUDA_VISIBLE_DEVICES": "-1"}
        own = [devices(program)[int(number)] for number in gpus_of(program, workers.index(task), len(workers))]
        return {"CUDA_VISIBLE_DEVICES": ",".join(own)}

    argv = (program.python, *program.argv)
    return tuple(Process(argv, {**variables(task), **gpus(task)}, task.name, task.role in serving) for task in here)


def gpus_of(program: Program, position: int, count: int) -> tuple[str, ...]:
    """Return which of the GPUs that it sees one of several processes gets; where they are too few, they share them."""
    begin = position * program.gpus // count
    end = max(begin + 1, (position + 1) * program.gpus // count)
    return tuple(map(str, range(begin, end))) if program.gpus else ()


def devices(program: Program) -> tuple[str, ...]:
    """Return what CUDA calls the GPUs of the node, for a variable that says which of all it may see."""
    return program.devices or tuple(map(str, range(program.gpus)))
