"""DeepSpeed's own launcher, on each node without ssh."""

from __future__ import annotations

from .cluster import PROCESS_LOGS, devices
from .launch import Launch, Program
from .variables import common

HOSTS = "hosts"
LOCAL_RANK = "--local_rank={local_rank}"
"""Its value is filled in where the process starts."""


def command(program: Program) -> Launch:
    """Return the command line of DeepSpeed's launcher, each rank writing raw files of its own below the run folder.

    Its file of hosts only counts processes: the names in it are never looked up. Scripts get ``--local_rank``, as they
    do from DeepSpeed; here our redirection stands between the two, which is why it is asked to pass it on. It counts
    the GPUs of its slots from 0 on, whichever they are, so what a rank may see is said once more behind it.
    """
    words = 2 if program.argv[:1] == ("-m",) else 1
    ranks = f"{program.run_dir}/ranks"
    return Launch(
        argv=(
            *(program.python, "-m", "deepspeed.launcher.runner"),
            *("--hostfile", f"{program.run_dir}/{HOSTS}", "--no_ssh", "--node_rank", str(program.node_rank)),
            *("--master_addr", program.addresses[0], "--master_port", str(program.port), "--no_local_rank"),
            *(f"{program.tools}/redirect.py", ranks, "LOCAL_RANK"),
            *(("env", f"CUDA_VISIBLE_DEVICES={','.join(devices(program))}") if program.gpus else ()),
            *(program.python, *program.argv[:words], LOCAL_RANK, *program.argv[words:]),
        ),
        env=common(program),
        rank_logs=PROCESS_LOGS,
        files={HOSTS: "".join(f"node-{node} slots={program.nproc}\n" for node in range(program.nnodes))},
    )
