"""An image's own command, for a run without a script."""

from __future__ import annotations

from .launch import Launch, Program
from .variables import common, rank_variables, rendezvous_variables


def command(program: Program) -> Launch:
    """Return the command as it is; on several nodes it is told which node it is, in the words of torchrun too."""
    if program.nnodes == 1:
        return Launch(program.argv, common(program))
    node = {name: rank_variables(program, 0)[name] for name in ("NODE_RANK", "MASTER_ADDR", "MASTER_PORT")}
    node["NNODES"] = str(program.nnodes)
    return Launch(program.argv, {**common(program), **node, **rendezvous_variables(program)})
