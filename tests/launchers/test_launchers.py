"""Launchers are pure: whole launches, compared whole."""

from __future__ import annotations

from dataclasses import replace

import pytest

from jupyter_dlenv.errors import InvalidRequest, UnknownOption
from jupyter_dlenv.launchers import NAMES, OWN, Launch, Process, Program, command
from jupyter_dlenv.launchers.horovod import RENDEZVOUS
from jupyter_dlenv.launchers.launch import OWN_IP
from jupyter_dlenv.spec import End, RankLogs

SCRIPT = Program(
    python="/usr/bin/python3",
    argv=("/data/train.py", "--epochs", "3", "--", "-x"),
    nproc=2,
    run_dir="/dlenv/run",
    env={},
    tools="/dlenv/shim",
)
MODULE = replace(SCRIPT, argv=("-m", "pkg.train", "a"))
FIRST = replace(SCRIPT, nnodes=2, addresses=("node-0", "node-1"), port=29501)
SECOND = replace(FIRST, node_rank=1, run_dir="/dlenv/run/node-1")
ELSEWHERE = replace(SECOND, addresses=("10.1.2.3",), run_dir="/dlenv/run")

ARGS = ("/data/train.py", "--epochs", "3", "--", "-x")
PYTHON_ARGS = ("/usr/bin/python3", *ARGS)
TORCHRUN = ("/usr/bin/python3", "-m", "torch.distributed.run")
ACCELERATE = ("/usr/bin/python3", "-m", "accelerate.commands.launch")
ALL_GPUS = ("--gpu_ids", "all")
COMMON = {"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
NO_GPU = {"ACCELERATE_USE_CPU": "true"}
ELASTIC_LOGS = RankLogs("ranks/*/attempt_*/*/std*.log", -2)
PROCESS_LOGS = RankLogs("ranks/*/std*.log", -2)


def one(program: Program) -> Program:
    """Return the same with one process on each node."""
    return replace(program, nproc=1)


# torchrun -------------------------------------------------------------------------------------------------------------


def test_torchrun_on_one_node() -> None:
    assert command("torchrun", SCRIPT) == Launch(
        argv=(
            *TORCHRUN,
            "--standalone",
            "--nproc-per-node",
            "2",
            "--redirects",
            "3",
            "--log-dir",
            "/dlenv/run/ranks",
            *ARGS,
        ),
        env={**COMMON, **NO_GPU},
        rank_logs=ELASTIC_LOGS,
    )


def test_torchrun_with_a_module_and_threads_of_its_own() -> None:
    launch = command("torchrun", replace(MODULE, env={"OMP_NUM_THREADS": "8"}))
    assert launch.argv[3:] == (
        *("--standalone", "--nproc-per-node", "2", "--redirects", "3", "--log-dir", "/dlenv/run/ranks"),
        *("-m", "pkg.train", "a"),
    )
    assert launch.env == {"PYTHONUNBUFFERED": "1", **NO_GPU}


def test_a_single_process_gets_all_threads() -> None:
    assert command("torchrun", replace(one(SCRIPT), gpus=1)).env == {"PYTHONUNBUFFERED": "1"}


@pytest.mark.parametrize(
    ("program", "rank", "master", "own"),
    [
        (FIRST, "0", "node-0", "node-0"),
        (SECOND, "1", "node-0", "node-1"),
        (ELSEWHERE, "1", "10.1.2.3", OWN_IP),
        (replace(ELSEWHERE, node_rank=0), "0", "10.1.2.3", "10.1.2.3"),
    ],
)
def test_torchrun_on_several_nodes_meets_statically(program: Program, rank: str, master: str, own: str) -> None:
    assert command("torchrun", program) == Launch(
        argv=(*TORCHRUN, "--redirects", "3", "--log-dir", f"{program.run_dir}/ranks", *ARGS),
        env={
            **COMMON,
            **NO_GPU,
            "PET_NNODES": "2",
            "PET_NPROC_PER_NODE": "2",
            "PET_NODE_RANK": rank,
            "PET_MASTER_ADDR": master,
            "PET_MASTER_PORT": "29501",
            "PET_LOCAL_ADDR": own,
        },
        rank_logs=ELASTIC_LOGS,
    )


# accelerate -----------------------------------------------------------------------------------------------------------


def test_accelerate_on_one_node() -> None:
    assert command("accelerate", replace(SCRIPT, gpus=2)) == Launch(
        argv=(
            *ACCELERATE,
            *("--num_processes", "2", "--num_machines", "1", *ALL_GPUS, "--multi_gpu", "--main_process_port", "0"),
            *("--log_dir", "/dlenv/run/ranks"),
            *ARGS,
        ),
        env={**COMMON, "PET_REDIRECTS": "3"},
        rank_logs=ELASTIC_LOGS,
    )


def test_accelerate_starts_several_processes_without_gpus_too() -> None:
    with_gpus, without = command("accelerate", replace(MODULE, gpus=2)), command("accelerate", MODULE)
    assert without.argv == with_gpus.argv
    assert without.argv[-3:] == ("-m", "pkg.train", "a")
    assert without.env == {**with_gpus.env, **NO_GPU}


@pytest.mark.parametrize(("gpus", "options"), [(0, ("--cpu",)), (1, ())])
def test_accelerate_with_one_process(gpus: int, options: tuple[str, ...]) -> None:
    argv = (*ACCELERATE, "--num_processes", "1", "--num_machines", "1", *ALL_GPUS, *options, *ARGS)
    assert command("accelerate", replace(one(SCRIPT), gpus=gpus)) == Launch(argv, {"PYTHONUNBUFFERED": "1"})


@pytest.mark.parametrize(
    ("program", "rank", "master", "own"),
    [
        (FIRST, "0", "node-0", "node-0"),
        (SECOND, "1", "node-0", "node-1"),
        (ELSEWHERE, "1", "10.1.2.3", OWN_IP),
    ],
)
def test_accelerate_on_several_nodes(program: Program, rank: str, master: str, own: str) -> None:
    assert command("accelerate", replace(program, gpus=2)) == Launch(
        argv=(
            *ACCELERATE,
            *("--num_processes", "4", "--num_machines", "2", "--machine_rank", rank, *ALL_GPUS, "--multi_gpu"),
            *("--same_network", "--rdzv_backend", "static"),
            *("--main_process_ip", master, "--main_process_port", "29501", "--log_dir", f"{program.run_dir}/ranks"),
            *ARGS,
        ),
        env={**COMMON, "PET_REDIRECTS": "3", "PET_LOCAL_ADDR": own},
        rank_logs=ELASTIC_LOGS,
    )


# deepspeed ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("program", "rank", "master", "port", "hosts"),
    [
        (SCRIPT, "0", "127.0.0.1", "29500", "node-0 slots=2\n"),
        (FIRST, "0", "node-0", "29501", "node-0 slots=2\nnode-1 slots=2\n"),
        (SECOND, "1", "node-0", "29501", "node-0 slots=2\nnode-1 slots=2\n"),
        (ELSEWHERE, "1", "10.1.2.3", "29501", "node-0 slots=2\nnode-1 slots=2\n"),
    ],
)
def test_deepspeed(program: Program, rank: str, master: str, port: str, hosts: str) -> None:
    assert command("deepspeed", program) == Launch(
        argv=(
            *("/usr/bin/python3", "-m", "deepspeed.launcher.runner"),
            *("--hostfile", f"{program.run_dir}/hosts", "--no_ssh", "--node_rank", rank),
            *("--master_addr", master, "--master_port", port, "--no_local_rank"),
            *("/dlenv/shim/redirect.py", f"{program.run_dir}/ranks", "LOCAL_RANK"),
            *("/usr/bin/python3", "/data/train.py", "--local_rank={local_rank}", "--epochs", "3", "--", "-x"),
        ),
        env=COMMON,
        rank_logs=PROCESS_LOGS,
        files={"hosts": hosts},
    )


def test_deepspeed_tells_a_module_its_local_rank() -> None:
    words = ("/usr/bin/python3", "-m", "pkg.train", "--local_rank={local_rank}", "a")
    assert command("deepspeed", MODULE).argv[-5:] == words


@pytest.mark.parametrize(
    ("gpus", "devices", "seen"), [(2, (), "0,1"), (4, (), "0,1,2,3"), (2, ("GPU-b", "GPU-c"), "GPU-b,GPU-c")]
)
def test_deepspeed_s_ranks_see_the_leased_gpus_not_the_first_ones(
    gpus: int, devices: tuple[str, ...], seen: str
) -> None:
    argv = command("deepspeed", replace(SCRIPT, gpus=gpus, devices=devices)).argv
    at = argv.index("env")
    assert argv[at - 2 : at + 4] == (
        *("/dlenv/run/ranks", "LOCAL_RANK"),
        *("env", f"CUDA_VISIBLE_DEVICES={seen}"),
        *("/usr/bin/python3", "/data/train.py"),
    )


# horovod --------------------------------------------------------------------------------------------------------------


def horovod_rank(argv: tuple[str, ...], rank: int, local: int, size: int, node: int, nodes: int) -> Process:
    """Return a rank of two on its node."""
    variables = {
        "HOROVOD_HOSTNAME": f"node-{node}",
        "HOROVOD_RANK": str(rank),
        "HOROVOD_SIZE": str(size),
        "HOROVOD_LOCAL_RANK": str(local),
        "HOROVOD_LOCAL_SIZE": "2",
        "HOROVOD_CROSS_RANK": str(node),
        "HOROVOD_CROSS_SIZE": str(nodes),
    }
    return Process(argv, variables)


def horovod_env(address: str, port: str) -> dict[str, str]:
    """Return what all of them read."""
    return {
        **COMMON,
        "HOROVOD_GLOO_TIMEOUT_SECONDS": "300",
        "HOROVOD_CONTROLLER": "gloo",
        "HOROVOD_CPU_OPERATIONS": "gloo",
        "HOROVOD_GLOO_RENDEZVOUS_ADDR": address,
        "HOROVOD_GLOO_RENDEZVOUS_PORT": port,
    }


def test_horovod_on_one_node() -> None:
    server = ("/usr/bin/python3", "-c", RENDEZVOUS, "29500", "node-0:2", "2")
    argv = ("/usr/bin/python3", "-m", "pkg.train", "a")
    assert command("horovod", MODULE) == Launch(
        env=horovod_env("127.0.0.1", "29500"),
        rank_logs=PROCESS_LOGS,
        processes=(
            horovod_rank(argv, 0, 0, 2, 0, 1),
            horovod_rank(argv, 1, 1, 2, 0, 1),
            Process(server, name="rendezvous", serves=True),
        ),
    )


def test_horovod_on_several_nodes() -> None:
    server = ("/usr/bin/python3", "-c", RENDEZVOUS, "29501", "node-0:2,node-1:2", "4")
    ranks = [horovod_rank(PYTHON_ARGS, rank, rank % 2, 4, rank // 2, 2) for rank in range(4)]
    env = horovod_env("node-0", "29501")
    first = (*ranks[:2], Process(server, name="rendezvous", serves=True))
    assert command("horovod", FIRST) == Launch(env=env, rank_logs=PROCESS_LOGS, processes=first)
    assert command("horovod", SECOND) == Launch(env=env, rank_logs=PROCESS_LOGS, processes=tuple(ranks[2:]))


# mpi ------------------------------------------------------------------------------------------------------------------

MPI_ENV = {
    **COMMON,
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_btl_vader_single_copy_mechanism": "none",
}
REDIRECT = (
    *("/usr/bin/python3", "-I", "-S", "/dlenv/shim/redirect.py", "/dlenv/run/ranks", "OMPI_COMM_WORLD_RANK"),
    *("/usr/bin/python3", "/dlenv/shim/mpi_rank.py"),
)


def test_mpi_on_one_node() -> None:
    assert command("mpi", MODULE) == Launch(
        argv=("mpirun", "-np", "2", "--host", "localhost:2", "--bind-to", "none", *REDIRECT, "-m", "pkg.train", "a"),
        env=MPI_ENV,
        rank_logs=PROCESS_LOGS,
        ends=End.LEADER,
    )


def test_mpi_on_several_nodes_reaches_them_through_the_run_folder() -> None:
    agent = "/usr/bin/python3 -I -S /dlenv/shim/rsh.py /dlenv/run/mpi"
    assert command("mpi", FIRST) == Launch(
        argv=("mpirun", "-np", "4", "--hostfile", "/dlenv/run/hosts", "--bind-to", "none", *REDIRECT, *ARGS),
        env={
            **MPI_ENV,
            "SHELL": "/bin/sh",
            "OMPI_MCA_plm_rsh_agent": agent,
            "OMPI_MCA_plm_rsh_no_tree_spawn": "1",
            "OMPI_MCA_orte_leave_session_attached": "1",
            "PRTE_MCA_plm_ssh_agent": agent,
            "PRTE_MCA_plm_ssh_no_tree_spawn": "1",
            "PRTE_MCA_prte_leave_session_attached": "1",
        },
        rank_logs=PROCESS_LOGS,
        ends=End.LEADER,
        files={"hosts": "node-0 slots=2\nnode-1 slots=2\n"},
    )
    waits = ("/usr/bin/python3", "-I", "-S", "/dlenv/shim/remote.py", "/dlenv/run/node-1/../mpi", "node-1")
    assert command("mpi", SECOND) == Launch(waits, COMMON, PROCESS_LOGS, ends=End.LEADER)


@pytest.mark.parametrize("addresses", [("10.1.2.3",), ("10.1.2.3", "10.1.2.4"), ("127.0.0.1", "127.0.0.1")])
def test_mpi_needs_one_run_folder(addresses: tuple[str, ...]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        command("mpi", replace(FIRST, addresses=addresses))
    assert caught.value.message == "The launcher mpi starts several nodes on one host's private network only."
    assert "--node-rank" in caught.value.hint


# jax ------------------------------------------------------------------------------------------------------------------


def jax_env(rank: int, local: int, size: int, address: str, port: str) -> dict[str, str]:
    """Return what one process reads."""
    return {
        "JAX_COORDINATOR_ADDRESS": f"{address}:{port}",
        "JAX_NUM_PROCESSES": str(size),
        "JAX_PROCESS_ID": str(rank),
        "SLURM_JOB_ID": "1",
        "SLURM_STEP_NODELIST": address,
        "SLURM_NTASKS": str(size),
        "SLURM_PROCID": str(rank),
        "SLURM_LOCALID": str(local),
    }


def test_jax_on_one_node() -> None:
    argv = ("/usr/bin/python3", "-m", "pkg.train", "a")
    ranks = tuple(Process(argv, jax_env(rank, rank, 2, "127.0.0.1", "29500")) for rank in range(2))
    env = {**COMMON, "no_grpc_proxy": "127.0.0.1"}
    assert command("jax", MODULE) == Launch(env=env, rank_logs=PROCESS_LOGS, processes=ranks)


@pytest.mark.parametrize(("program", "first"), [(FIRST, 0), (SECOND, 2)])
def test_jax_on_several_nodes(program: Program, first: int) -> None:
    ranks = [jax_env(first + local, local, 4, "node-0", "29501") for local in range(2)]
    processes = tuple(Process(PYTHON_ARGS, each) for each in ranks)
    env = {**COMMON, "no_grpc_proxy": "node-0,node-1"}
    assert command("jax", program) == Launch(env=env, rank_logs=PROCESS_LOGS, processes=processes)


def test_one_jax_process_has_all_gpus_of_its_node_and_several_share_them() -> None:
    alone = command("jax", replace(one(SECOND), gpus=4))
    assert alone.argv == PYTHON_ARGS
    assert alone.env == {
        "PYTHONUNBUFFERED": "1",
        **jax_env(1, 0, 2, "node-0", "29501"),
        "JAX_LOCAL_DEVICE_IDS": "0,1,2,3",
        "no_grpc_proxy": "node-0,node-1",
    }
    shared = command("jax", replace(SCRIPT, gpus=4))
    assert [process.env["JAX_LOCAL_DEVICE_IDS"] for process in shared.processes] == ["0,1", "2,3"]


# python and own -------------------------------------------------------------------------------------------------------


def test_plain_python() -> None:
    plain = command("python", one(SCRIPT))
    assert plain == Launch(PYTHON_ARGS, {"PYTHONUNBUFFERED": "1"})
    module = command("python", one(MODULE))
    assert module == Launch(("/usr/bin/python3", "-m", "pkg.train", "a"), {"PYTHONUNBUFFERED": "1"})


def rank_env(rank: int, local: int, size: int, nproc: int, node: int, address: str, port: str) -> dict[str, str]:
    """Return what one process is told."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(local),
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(nproc),
        "NODE_RANK": str(node),
        "MASTER_ADDR": address,
        "MASTER_PORT": port,
    }


def test_several_plain_processes_are_told_which_rank_they_are() -> None:
    here = tuple(Process(PYTHON_ARGS, rank_env(rank, rank, 2, 2, 0, "127.0.0.1", "29500")) for rank in range(2))
    assert command("python", SCRIPT) == Launch(env=COMMON, rank_logs=PROCESS_LOGS, processes=here)
    there = tuple(Process(PYTHON_ARGS, rank_env(2 + n, n, 4, 2, 1, "node-0", "29501")) for n in range(2))
    assert command("python", SECOND) == Launch(env=COMMON, rank_logs=PROCESS_LOGS, processes=there)


def test_one_plain_process_on_each_node_is_the_command_itself() -> None:
    env = {"PYTHONUNBUFFERED": "1", **rank_env(1, 0, 2, 1, 1, "node-0", "29501")}
    assert command("python", one(SECOND)) == Launch(PYTHON_ARGS, env)


def test_an_image_s_own_command_stays_as_it_is() -> None:
    own = replace(SCRIPT, argv=("bash", "train.sh"), env={"OMP_NUM_THREADS": "4"})
    assert command(OWN, own) == Launch(("bash", "train.sh"), {"PYTHONUNBUFFERED": "1"})
    assert OWN not in NAMES


@pytest.mark.parametrize(("program", "rank"), [(FIRST, "0"), (SECOND, "1")])
def test_an_image_s_own_command_is_told_which_node_it_is(program: Program, rank: str) -> None:
    launch = command(OWN, replace(program, argv=("bash", "train.sh")))
    assert launch == Launch(
        argv=("bash", "train.sh"),
        env={
            **COMMON,
            "NNODES": "2",
            "NODE_RANK": rank,
            "MASTER_ADDR": "node-0",
            "MASTER_PORT": "29501",
            "PET_NNODES": "2",
            "PET_NPROC_PER_NODE": "2",
            "PET_NODE_RANK": rank,
            "PET_MASTER_ADDR": "node-0",
            "PET_MASTER_PORT": "29501",
            "PET_LOCAL_ADDR": f"node-{rank}",
        },
    )


@pytest.mark.parametrize("name", ["mxnet", "paddle-ps", "tensorflow-ps"])
@pytest.mark.parametrize(
    ("devices", "workers", "expected"),
    [
        ((), 2, ["0,1", "2,3"]),
        (("GPU-d", "GPU-c", "GPU-b", "GPU-a"), 2, ["GPU-d,GPU-c", "GPU-b,GPU-a"]),
        (("MIG-a", "MIG-b", "MIG-c", "MIG-d"), 3, ["MIG-a", "MIG-b", "MIG-c,MIG-d"]),
    ],
)
def test_workers_are_given_leased_gpus_by_what_cuda_calls_them(
    name: str, devices: tuple[str, ...], workers: int, expected: list[str]
) -> None:
    launch = command(name, replace(SCRIPT, gpus=4, devices=devices, workers=workers))
    given = [process.env["CUDA_VISIBLE_DEVICES"] for process in launch.processes]
    assert [value for value in given if value != "-1"] == expected


def test_numbers_among_the_visible_gpus_stay_numbers() -> None:
    named = replace(SCRIPT, gpus=2, devices=("GPU-b", "GPU-c"))
    assert [each.env["JAX_LOCAL_DEVICE_IDS"] for each in command("jax", named).processes] == ["0", "1"]
    assert [each.env["FLAGS_selected_gpus"] for each in command("paddle", named).processes] == ["0", "1"]


# All ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*NAMES, OWN])
def test_what_the_user_set_is_never_replaced(name: str) -> None:
    own = {
        "OMP_NUM_THREADS": "8",
        "PYTHONUNBUFFERED": "",
        "HOROVOD_GLOO_TIMEOUT_SECONDS": "9",
        "ACCELERATE_USE_CPU": "0",
    }
    launch = command(name, replace(FIRST, env=own))
    environments = [launch.env, *(process.env for process in launch.processes)]
    assert not any(set(own) & set(env) for env in environments)


@pytest.mark.parametrize("name", NAMES)
def test_a_launch_is_a_command_or_processes(name: str) -> None:
    for program in (SCRIPT, MODULE, FIRST, SECOND):
        launch = command(name, program)
        assert bool(launch.argv) != bool(launch.processes)
        assert (launch.rank_logs is None) == (
            not launch.processes and name not in ("torchrun", "accelerate", "deepspeed", "mpi")
        )
        assert any("train" in word for part in (launch, *launch.processes) for word in part.argv) or name == "mpi"


@pytest.mark.parametrize(
    ("name", "nearest"), [("torchrnu", "torchrun"), ("pyhton", "python"), ("mpirun", "mpi"), ("", "python")]
)
def test_an_unknown_launcher_names_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(UnknownOption) as caught:
        command(name, SCRIPT)
    assert caught.value.hint in {f"--launcher {known}" for known in NAMES}
    if name:
        assert caught.value.message == f"There is no launcher {name!r}; the nearest is {nearest}."


@pytest.mark.parametrize("name", [*NAMES, OWN])
def test_no_process_is_none(name: str) -> None:
    with pytest.raises(InvalidRequest):
        command(name, replace(SCRIPT, nproc=0))
