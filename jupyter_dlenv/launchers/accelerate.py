"""Hugging Face's ``accelerate launch``."""

from __future__ import annotations

from .launch import Launch, Program
from .torchrun import RANK_LOGS
from .variables import common, own_address, without_gpus, world


def command(program: Program) -> Launch:
    """Return the command line of accelerate's launcher, which is torchrun inside where there are several processes.

    It does not hand all of torchrun's options on, but torchrun reads variables for the others. ``--cpu`` is for one
    process: beside more it starts one all the same, or wants mpirun. GPUs that its configuration file names may be
    another's.
    """
    argv = (program.python, "-m", "accelerate.commands.launch", *_machines(program), "--gpu_ids", "all")
    if world(program) == 1:
        return Launch((*argv, *([] if program.gpus else ["--cpu"]), *program.argv), common(program))
    env = {**common(program), **without_gpus(program), "PET_REDIRECTS": "3"}
    if program.nnodes > 1:
        env["PET_LOCAL_ADDR"] = own_address(program)
    logs = ("--log_dir", f"{program.run_dir}/ranks")
    return Launch((*argv, "--multi_gpu", *_meeting(program), *logs, *program.argv), env, RANK_LOGS)


def _machines(program: Program) -> tuple[str, ...]:
    rank = () if program.nnodes == 1 else ("--machine_rank", str(program.node_rank))
    return ("--num_processes", str(world(program)), "--num_machines", str(program.nnodes), *rank)


def _meeting(program: Program) -> tuple[str, ...]:
    if program.nnodes == 1:
        return ("--main_process_port", "0")
    where = ("--main_process_ip", program.addresses[0], "--main_process_port", str(program.port))
    return ("--same_network", "--rdzv_backend", "static", *where)
