"""Plain Python processes."""

from __future__ import annotations

from .cluster import ranks
from .launch import Launch, Program
from .variables import common, rank_variables, world


def command(program: Program) -> Launch:
    """Return the interpreter's command line, once for each process; each of several is told which rank it is."""
    if world(program) == 1:
        return Launch((program.python, *program.argv), common(program))
    return ranks(program, [rank_variables(program, local) for local in range(program.nproc)])
