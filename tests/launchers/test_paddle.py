"""What PaddlePaddle's two launchers start, whole."""

from __future__ import annotations

from dataclasses import replace

import pytest

from jupyter_dlenv.errors import InvalidRequest
from jupyter_dlenv.launchers import Launch, Process, Program, choose, command
from jupyter_dlenv.spec import RankLogs

ONE = Program("python3", ("train.py", "--lr", "0.1"), nproc=1, run_dir="/dlenv/run", env={})
TWO = replace(ONE, nnodes=2, addresses=("node-0", "node-1"))
ARGV = ("python3", "train.py", "--lr", "0.1")
LOGS = RankLogs("ranks/*/std*.log", -2)


def trainer(endpoints: str, rank: int, local: int, nnodes: int, nproc: int, master: str) -> dict[str, str]:
    return {
        "PADDLE_MASTER": master,
        "PADDLE_NNODES": str(nnodes),
        "PADDLE_GLOBAL_SIZE": str(nnodes * nproc),
        "PADDLE_GLOBAL_RANK": str(rank),
        "PADDLE_LOCAL_SIZE": str(nproc),
        "PADDLE_LOCAL_RANK": str(local),
        "PADDLE_TRAINER_ENDPOINTS": endpoints,
        "PADDLE_CURRENT_ENDPOINT": endpoints.split(",")[rank],
        "PADDLE_TRAINERS_NUM": str(nnodes * nproc),
        "PADDLE_TRAINER_ID": str(rank),
        "PADDLE_RANK_IN_NODE": str(local),
        "PADDLE_DISTRI_BACKEND": "gloo",
    }


def test_a_single_trainer() -> None:
    env = trainer("127.0.0.1:29501", 0, 0, nnodes=1, nproc=1, master="127.0.0.1:29500")
    assert command("paddle", ONE) == Launch(ARGV, {"PYTHONUNBUFFERED": "1", **env})


def test_several_trainers_on_one_node() -> None:
    program = replace(ONE, argv=("-m", "pkg.train", "x"), nproc=2, port=7000)
    argv, endpoints = ("python3", "-m", "pkg.train", "x"), "127.0.0.1:7001,127.0.0.1:7002"
    assert command("paddle", program) == Launch(
        env={"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"},
        rank_logs=LOGS,
        processes=tuple(
            Process(argv, trainer(endpoints, rank, rank, nnodes=1, nproc=2, master="127.0.0.1:7000")) for rank in (0, 1)
        ),
    )


@pytest.mark.parametrize("node", [0, 1])
def test_trainers_on_two_nodes(node: int) -> None:
    endpoints = "node-0:29501,node-0:29502,node-1:29503,node-1:29504"
    assert command("paddle", replace(TWO, node_rank=node, nproc=2)) == Launch(
        env={"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"},
        rank_logs=LOGS,
        processes=tuple(
            Process(ARGV, trainer(endpoints, 2 * node + local, local, nnodes=2, nproc=2, master="node-0:29500"))
            for local in (0, 1)
        ),
    )


def test_the_masters_address_is_enough() -> None:
    launch = command("paddle", replace(TWO, addresses=("10.0.0.7",), node_rank=1))
    env = trainer("10.0.0.7:29501,node-1:29502", 1, 0, nnodes=2, nproc=1, master="10.0.0.7:29500")
    assert launch == Launch(ARGV, {"PYTHONUNBUFFERED": "1", **env})


@pytest.mark.parametrize(("nproc", "gpus", "chosen"), [(2, 2, ["0", "1"]), (1, 2, ["0,1"]), (2, 4, ["0,1", "2,3"])])
def test_trainers_with_gpus_use_paddles_usual_backend(nproc: int, gpus: int, chosen: list[str]) -> None:
    launch = command("paddle", replace(ONE, nproc=nproc, gpus=gpus))
    envs = [process.env for process in launch.processes] or [launch.env]
    assert [env["FLAGS_selected_gpus"] for env in envs] == chosen
    assert not any("PADDLE_DISTRI_BACKEND" in env for env in envs)


def ps(role: str, address: str, port: int, *more: tuple[str, str]) -> dict[str, str]:
    env = {"TRAINING_ROLE": role, "PADDLE_ROLE": role, "POD_IP": address, "PADDLE_PORT": str(port)}
    return {**env, **dict(more)}


def test_servers_and_trainers_on_one_node() -> None:
    here = "127.0.0.1"
    assert command("paddle-ps", replace(ONE, workers=2)) == Launch(
        env={
            "PYTHONUNBUFFERED": "1",
            "PADDLE_WITH_GLOO": "1",
            "PADDLE_GLOO_RENDEZVOUS": "3",
            "PADDLE_GLOO_HTTP_ENDPOINT": "127.0.0.1:29503",
            "PADDLE_PSERVERS_IP_PORT_LIST": "127.0.0.1:29502",
            "PADDLE_TRAINER_ENDPOINTS": "127.0.0.1:29500,127.0.0.1:29501",
            "PADDLE_TRAINERS_NUM": "2",
            "PADDLE_NNODES": "1",
        },
        rank_logs=LOGS,
        processes=(
            Process(ARGV, ps("TRAINER", here, 29500, ("PADDLE_TRAINER_ID", "0")), "trainer 0"),
            Process(ARGV, ps("TRAINER", here, 29501, ("PADDLE_TRAINER_ID", "1")), "trainer 1"),
            Process(ARGV, ps("PSERVER", here, 29502), "server 0", serves=True),
        ),
    )


@pytest.mark.parametrize("node", [0, 1])
def test_servers_and_trainers_on_two_nodes(node: int) -> None:
    program = replace(TWO, argv=("-m", "pkg"), node_rank=node, workers=3, servers=2)
    argv = ("python3", "-m", "pkg")
    expected = {
        0: (
            Process(argv, ps("TRAINER", "node-0", 29500, ("PADDLE_TRAINER_ID", "0")), "trainer 0"),
            Process(argv, ps("TRAINER", "node-0", 29501, ("PADDLE_TRAINER_ID", "1")), "trainer 1"),
            Process(argv, ps("PSERVER", "node-0", 29504), "server 1", serves=True),
        ),
        1: (
            Process(argv, ps("TRAINER", "node-1", 29502, ("PADDLE_TRAINER_ID", "2")), "trainer 2"),
            Process(argv, ps("PSERVER", "node-1", 29503), "server 0", serves=True),
        ),
    }
    assert command("paddle-ps", program) == Launch(
        env={
            "PYTHONUNBUFFERED": "1",
            "PADDLE_WITH_GLOO": "1",
            "PADDLE_GLOO_RENDEZVOUS": "3",
            "PADDLE_GLOO_HTTP_ENDPOINT": "node-1:29505",
            "PADDLE_PSERVERS_IP_PORT_LIST": "node-1:29503,node-0:29504",
            "PADDLE_TRAINER_ENDPOINTS": "node-0:29500,node-0:29501,node-1:29502",
            "PADDLE_TRAINERS_NUM": "3",
            "PADDLE_NNODES": "2",
        },
        rank_logs=LOGS,
        processes=expected[node],
    )


def test_a_node_of_servers_only() -> None:
    launch = command("paddle-ps", replace(TWO, node_rank=1, workers=1))
    assert [(process.name, process.serves) for process in launch.processes] == [("server 0", True)]


def test_servers_have_no_gpu() -> None:
    launch = command("paddle-ps", replace(ONE, nproc=2, gpus=2))
    assert [process.env["CUDA_VISIBLE_DEVICES"] for process in launch.processes] == ["0", "1", "-1"]


def test_servers_and_trainers_have_to_know_all_nodes() -> None:
    with pytest.raises(InvalidRequest) as caught:
        command("paddle-ps", replace(TWO, addresses=("node-0",)))
    assert caught.value.message == "This launcher needs the addresses of all 2 nodes, and 1 of them is known."


@pytest.mark.parametrize(
    ("text", "launcher"),
    [
        ("import paddle\nimport paddle.distributed as dist\ndist.init_parallel_env()", "paddle"),
        ("from paddle.distributed import fleet\nfleet.init(is_collective=True)", "paddle"),
        ("import paddle\nmodel = paddle.DataParallel(model)", "paddle"),
        (
            "import paddle.distributed.fleet as fleet\nfleet.init()\nfleet.init_server()\nfleet.run_server()",
            "paddle-ps",
        ),
        ("import paddle\npaddle.nn.Linear(1, 2)", "python"),
    ],
)
def test_which_scripts_are_meant(text: str, launcher: str) -> None:
    assert choose(text) == launcher
