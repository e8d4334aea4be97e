"""What goes into a launcher and what comes out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..spec import End, RankLogs

OWN_IP = "{own-ip}"
"""Stands in a variable's value for the node's own IP address, which nobody knows before the node is there."""


@dataclass(frozen=True)
class Program:
    """What to launch on one node of a job.

    Attributes:
        python: The interpreter.
        argv: What follows it: a script or ``-m`` and a module, then the arguments.
        nproc: Number of processes on each node.
        run_dir: The node's run folder as the launched process sees it; below it the node may write.
        env: Variables that are set already.
        nnodes: Number of nodes.
        node_rank: Which of them this one is.
        addresses: Where the nodes find each other, by rank; node 0's alone where the others' are not known.
        port: First of 64 ports that are free on every node.
        servers, workers: Parameter servers and trainers of the whole job, 0 where nothing was asked for.
        gpus: GPUs of each node.
        devices: What CUDA calls those of this node; empty where it numbers them from 0 on.
        tools: Folder of our own programs as the launched process sees it.
    """

    python: str
    argv: tuple[str, ...]
    nproc: int
    run_dir: str
    env: Mapping[str, str]
    nnodes: int = 1
    node_rank: int = 0
    addresses: tuple[str, ...] = ("127.0.0.1",)
    port: int = 29500
    servers: int = 0
    workers: int = 0
    gpus: int = 0
    devices: tuple[str, ...] = ()
    tools: str = ""


@dataclass(frozen=True)
class Process:
    """One process of a node, where a framework brings no launcher that starts it.

    Attributes:
        name: What it is, such as ``ps 0``; empty for a plain rank.
        serves: Whether it never ends by itself and is ended when all others of the job have.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    name: str = ""
    serves: bool = False


@dataclass(frozen=True)
class Launch:
    """How to launch it on that node.

    Attributes:
        argv: The command; empty where ``processes`` are started instead.
        env: Variables that it needs on top; :data:`OWN_IP` in a value is replaced on the node.
        rank_logs: Where raw files of ranks appear below the node's run folder, None when there is one stream.
        processes: What is started side by side on this node, each with raw files of its own; when one fails, the others
            are ended.
        ends: When the job is done: when all of its processes have ended, or when the first of node 0 has.
        files: Texts that lie in the node's run folder before it starts, by name.
    """

    argv: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    rank_logs: RankLogs | None = None
    processes: tuple[Process, ...] = ()
    ends: End = End.ALL
    files: Mapping[str, str] = field(default_factory=dict)
