"""What goes into a launcher and what comes out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..spec import RankLogs


@dataclass(frozen=True)
class Program:
    """What to launch on one node.

    Attributes:
        python: The interpreter.
        argv: What follows it: a script or ``-m`` and a module, then the arguments.
        nproc: Number of processes.
        run_dir: The run folder as the launched process sees it.
        env: Variables that are set already.
    """

    python: str
    argv: tuple[str, ...]
    nproc: int
    run_dir: str
    env: Mapping[str, str]


@dataclass(frozen=True)
class Launch:
    """How to launch it.

    Attributes:
        argv: The command.
        env: Variables that it needs on top.
        rank_logs: Where raw files of ranks appear, None when there is one stream.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    rank_logs: RankLogs | None = None
