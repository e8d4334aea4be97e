"""PyTorch's ``torchrun`` on one node."""

from __future__ import annotations

from ..spec import RankLogs
from .launch import Launch, Program

RANK_LOGS = RankLogs(pattern="ranks/*/attempt_*/*/std*.log", rank_part=-2)


def command(program: Program) -> Launch:
    """Return the command line of torchrun, each rank writing raw files of its own below the run folder."""
    env = {"PYTHONUNBUFFERED": "1"}
    if "OMP_NUM_THREADS" not in program.env:
        env["OMP_NUM_THREADS"] = "1"  # what torchrun takes itself, less its banner
    options = (
        "--standalone",
        "--nproc-per-node",
        str(program.nproc),
        "--redirects",
        "3",
        "--log-dir",
        f"{program.run_dir}/ranks",
    )
    return Launch((program.python, "-m", "torch.distributed.run", *options, *program.argv), env, RANK_LOGS)
