"""Open MPI's ``mpirun``, version 4 or 5, on one host.

Several nodes are containers that share node 0's run folder. There is no ssh in them, so mpirun's remote shell is a
program of ours that leaves the command in that folder, where another one on the other node waits for it.
"""

from __future__ import annotations

from ..errors import InvalidRequest
from ..i18n import _
from ..spec import End
from .cluster import PROCESS_LOGS
from .launch import Launch, Program
from .variables import common, world

HOSTS = "hosts"
MAILBOX = "mpi"
_SHARED = ("-I", "-S")


def command(program: Program) -> Launch:
    """Return mpirun on node 0, and who waits for its commands on any other node.

    Raises:
        InvalidRequest: The nodes are not on one private network with one run folder.
    """
    if program.nnodes == 1:
        return _mpirun(program, ("--host", f"localhost:{program.nproc}"))
    if program.addresses != tuple(f"node-{node}" for node in range(program.nnodes)):
        raise InvalidRequest(
            _("The launcher mpi starts several nodes on one host's private network only."),
            hint=_("Leave out --network host, --node-rank and --master."),
        )
    if program.node_rank:
        argv = (program.python, *_SHARED, f"{program.tools}/remote.py", f"{program.run_dir}/../{MAILBOX}")
        return Launch((*argv, program.addresses[program.node_rank]), common(program), PROCESS_LOGS, ends=End.LEADER)
    agent = " ".join((program.python, *_SHARED, f"{program.tools}/rsh.py", f"{program.run_dir}/{MAILBOX}"))
    return _mpirun(program, ("--hostfile", f"{program.run_dir}/{HOSTS}"), _remote_shell(agent))


def _mpirun(program: Program, hosts: tuple[str, ...], env: dict[str, str] | None = None) -> Launch:
    redirect = (program.python, *_SHARED, f"{program.tools}/redirect.py", f"{program.run_dir}/ranks")
    return Launch(
        argv=(
            *("mpirun", "-np", str(world(program)), *hosts, "--bind-to", "none"),
            *(*redirect, "OMPI_COMM_WORLD_RANK"),
            *(program.python, f"{program.tools}/mpi_rank.py", *program.argv),
        ),
        env={**common(program), **_ENV, **(env or {})},
        rank_logs=PROCESS_LOGS,
        ends=End.LEADER,
        files={HOSTS: _hosts(program)} if program.nnodes > 1 else {},
    )


_ENV = {
    # In a rootless engine's containers the caller is root, and no more than the caller.
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    # Processes may not read each other's memory there; version 4 tries it for each large message, and complains.
    "OMPI_MCA_btl_vader_single_copy_mechanism": "none",
}


def _hosts(program: Program) -> str:
    return "".join(f"{address} slots={program.nproc}\n" for address in program.addresses)


def _remote_shell(agent: str) -> dict[str, str]:
    """Return the variables that make mpirun use a remote shell and stay connected with it, for version 4 and for 5."""
    return {
        "SHELL": "/bin/sh",  # an account without a name has none
        "OMPI_MCA_plm_rsh_agent": agent,
        "OMPI_MCA_plm_rsh_no_tree_spawn": "1",
        "OMPI_MCA_orte_leave_session_attached": "1",
        "PRTE_MCA_plm_ssh_agent": agent,
        "PRTE_MCA_plm_ssh_no_tree_spawn": "1",
        "PRTE_MCA_prte_leave_session_attached": "1",
    }
