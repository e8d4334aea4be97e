"""PyTorch's ``torchrun``, which starts DeepSpeed's and Accelerate's scripts too."""

from __future__ import annotations

from ..spec import RankLogs
from .launch import Launch, Program
from .variables import common, rendezvous_variables, without_gpus

RANK_LOGS = RankLogs(pattern="ranks/*/attempt_*/*/std*.log", rank_part=-2)


def command(program: Program) -> Launch:
    """Return the command line of torchrun, each rank writing raw files of its own below the run folder.

    Several nodes meet statically, because only that gives node k the ranks from k times nproc on.
    """
    alone = program.nnodes == 1
    options = ("--standalone", "--nproc-per-node", str(program.nproc)) if alone else ()
    logs = ("--redirects", "3", "--log-dir", f"{program.run_dir}/ranks")
    env = {**common(program), **without_gpus(program), **({} if alone else rendezvous_variables(program))}
    return Launch((program.python, "-m", "torch.distributed.run", *options, *logs, *program.argv), env, RANK_LOGS)
