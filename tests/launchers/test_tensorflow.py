"""What TensorFlow's two launchers start, whole."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from jupyter_dlenv.errors import InvalidRequest
from jupyter_dlenv.launchers import Launch, Process, Program, choose, command
from jupyter_dlenv.spec import End, RankLogs

ONE = Program("/usr/bin/python3", ("train.py", "--epochs", "3"), nproc=1, run_dir="/dlenv/run", env={})
TWO = replace(ONE, nnodes=2, addresses=("node-0", "node-1"))
ARGV = ("/usr/bin/python3", "train.py", "--epochs", "3")
LOGS = RankLogs("ranks/*/std*.log", -2)


def config(cluster: dict[str, list[str]], role: str, index: int) -> dict[str, str]:
    return {"TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": role, "index": index}})}


def test_a_single_worker_has_a_cluster_too() -> None:
    env = {
        "PYTHONUNBUFFERED": "1",
        "TF_CONFIG": '{"cluster": {"worker": ["127.0.0.1:29500"]}, "task": {"type": "worker", "index": 0}}',
        "no_grpc_proxy": "127.0.0.1",
    }
    assert command("tensorflow", ONE) == Launch(ARGV, env)


def test_several_workers_on_one_node() -> None:
    cluster = {"worker": ["127.0.0.1:29500", "127.0.0.1:29501"]}
    launch = command("tensorflow", replace(ONE, argv=("-m", "pkg.train", "x"), nproc=2))
    argv = ("/usr/bin/python3", "-m", "pkg.train", "x")
    assert launch == Launch(
        env={"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1", "no_grpc_proxy": "127.0.0.1"},
        rank_logs=LOGS,
        processes=(Process(argv, config(cluster, "worker", 0)), Process(argv, config(cluster, "worker", 1))),
    )


@pytest.mark.parametrize("rank", [0, 1])
def test_a_worker_on_each_node(rank: int) -> None:
    cluster = {"worker": ["node-0:7000", "node-1:7001"]}
    env = {"PYTHONUNBUFFERED": "1", **config(cluster, "worker", rank), "no_grpc_proxy": "node-0,node-1"}
    assert command("tensorflow", replace(TWO, node_rank=rank, port=7000)) == Launch(ARGV, env)


def test_workers_on_several_nodes_are_numbered_through() -> None:
    launch = command("tensorflow", replace(TWO, node_rank=1, nproc=2))
    cluster = {"worker": ["node-0:29500", "node-0:29501", "node-1:29502", "node-1:29503"]}
    assert [process.env for process in launch.processes] == [config(cluster, "worker", i) for i in (2, 3)]


def test_one_worker_uses_all_gpus_of_its_node() -> None:
    launch = command("tensorflow", replace(TWO, node_rank=1, nproc=4, gpus=4))
    assert launch.argv == ARGV
    assert json.loads(launch.env["TF_CONFIG"]) == {
        "cluster": {"worker": ["node-0:29500", "node-1:29501"]},
        "task": {"type": "worker", "index": 1},
    }


def test_what_already_goes_past_proxies_goes_on_doing_so() -> None:
    launch = command("tensorflow", replace(TWO, env={"no_proxy": ".example.org"}))
    assert launch.env["no_grpc_proxy"] == "node-0,node-1,.example.org"


def test_chief_workers_and_server_on_one_node() -> None:
    cluster = {
        "chief": ["127.0.0.1:29500"],
        "worker": ["127.0.0.1:29501", "127.0.0.1:29502"],
        "ps": ["127.0.0.1:29503"],
    }
    assert command("tensorflow-ps", replace(ONE, nproc=2)) == Launch(
        env={
            "PYTHONUNBUFFERED": "1",
            "OMP_NUM_THREADS": "1",
            "no_grpc_proxy": "127.0.0.1",
            "GRPC_FAIL_FAST": "use_caller",
        },
        rank_logs=LOGS,
        processes=(
            Process(ARGV, config(cluster, "chief", 0), "chief"),
            Process(ARGV, config(cluster, "worker", 0), "worker 0", serves=True),
            Process(ARGV, config(cluster, "worker", 1), "worker 1", serves=True),
            Process(ARGV, config(cluster, "ps", 0), "ps 0", serves=True),
        ),
        ends=End.LEADER,
    )


@pytest.mark.parametrize("rank", [0, 1])
def test_chief_workers_and_servers_on_two_nodes(rank: int) -> None:
    cluster = {
        "chief": ["node-0:29500"],
        "worker": ["node-0:29501", "node-0:29502", "node-1:29503"],
        "ps": ["node-1:29504", "node-0:29505"],
    }
    program = replace(TWO, argv=("-m", "pkg"), node_rank=rank, servers=2, workers=3)
    argv = ("/usr/bin/python3", "-m", "pkg")
    expected = {
        0: (
            Process(argv, config(cluster, "chief", 0), "chief"),
            Process(argv, config(cluster, "worker", 0), "worker 0", serves=True),
            Process(argv, config(cluster, "worker", 1), "worker 1", serves=True),
            Process(argv, config(cluster, "ps", 1), "ps 1", serves=True),
        ),
        1: (
            Process(argv, config(cluster, "worker", 2), "worker 2", serves=True),
            Process(argv, config(cluster, "ps", 0), "ps 0", serves=True),
        ),
    }
    assert command("tensorflow-ps", program) == Launch(
        env={"PYTHONUNBUFFERED": "1", "no_grpc_proxy": "node-0,node-1", "GRPC_FAIL_FAST": "use_caller"},
        rank_logs=LOGS,
        processes=expected[rank],
        ends=End.LEADER,
    )


def visible(program: Program) -> dict[str, str]:
    launch = command("tensorflow-ps", program)
    return {process.name: process.env["CUDA_VISIBLE_DEVICES"] for process in launch.processes}


def test_workers_divide_their_nodes_gpus_and_nobody_else_has_any() -> None:
    program = replace(TWO, workers=3, gpus=4)
    assert visible(program) == {"chief": "-1", "worker 0": "0,1", "worker 1": "2,3"}
    assert visible(replace(program, node_rank=1)) == {"worker 2": "0,1,2,3", "ps 0": "-1"}
    assert visible(replace(ONE, workers=3, gpus=2)) == {
        "chief": "-1",
        "worker 0": "0",
        "worker 1": "0",
        "worker 2": "1",
        "ps 0": "-1",
    }


@pytest.mark.parametrize(("workers", "servers"), [(1, 3), (2, 2), (3, 1), (7, 2), (4, 4)])
def test_every_node_has_something_to_do_and_everybody_runs_once(workers: int, servers: int) -> None:
    nodes = replace(ONE, nnodes=4, addresses=("a", "b", "c", "d"), workers=workers, servers=servers)
    launches = [command("tensorflow-ps", replace(nodes, node_rank=rank)) for rank in range(4)]
    assert all(launch.processes for launch in launches)
    names = [process.name for launch in launches for process in launch.processes]
    expected = ["chief", *(f"worker {i}" for i in range(workers)), *(f"ps {i}" for i in range(servers))]
    assert sorted(names) == sorted(expected)
    cluster = json.loads(launches[0].processes[0].env["TF_CONFIG"])["cluster"]
    endpoints = [endpoint for role in cluster.values() for endpoint in role]
    assert len({endpoint.rpartition(":")[2] for endpoint in endpoints}) == len(endpoints) == len(names)
    for rank, launch in enumerate(launches):
        for process in launch.processes:
            task = json.loads(process.env["TF_CONFIG"])["task"]
            assert cluster[task["type"]][task["index"]].startswith("abcd"[rank])


def test_a_node_without_anything_to_do() -> None:
    program = replace(ONE, nnodes=3, addresses=("a", "b", "c"), workers=1, servers=1)
    with pytest.raises(InvalidRequest) as caught:
        command("tensorflow-ps", program)
    assert caught.value.message == "There is less to start (workers: 1, servers: 1) than there are nodes: 3."
    assert caught.value.hint == "--workers 3"


@pytest.mark.parametrize("launcher", ["tensorflow", "tensorflow-ps"])
def test_each_node_has_to_know_all_others(launcher: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        command(launcher, replace(TWO, addresses=("node-0",)))
    assert caught.value.message == "This launcher needs the addresses of all 2 nodes, and 1 of them is known."


@pytest.mark.parametrize(
    ("line", "launcher"),
    [
        ("strategy = tf.distribute.MultiWorkerMirroredStrategy()", "tensorflow"),
        ("strategy = tf.distribute.experimental.MultiWorkerMirroredStrategy()", "tensorflow"),
        ("import os\nconfig = os.environ['TF_CONFIG']", "tensorflow"),
        ("strategy = tf.distribute.ParameterServerStrategy(resolver)", "tensorflow-ps"),
        ("strategy = tf.distribute.MirroredStrategy()", "python"),
        ("model = tf.keras.Sequential()", "python"),
    ],
)
def test_which_scripts_are_meant(line: str, launcher: str) -> None:
    assert choose(f"import tensorflow as tf\n{line}\n") == launcher
