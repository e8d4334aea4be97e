"""What MXNet's launcher starts, whole."""

from __future__ import annotations

from dataclasses import replace

import pytest

from jupyter_dlenv.launchers import Launch, Process, Program, choose, command
from jupyter_dlenv.spec import RankLogs

ONE = Program("python3", ("train.py",), nproc=1, run_dir="/dlenv/run", env={})
TWO = replace(ONE, nnodes=2, addresses=("node-0", "node-1"))
ARGV = ("python3", "train.py")
LOGS = RankLogs("ranks/*/std*.log", -2)


def role(name: str, index: int) -> dict[str, str]:
    return {"DMLC_ROLE": name, f"DMLC_{name.upper()}_ID": str(index)}


def test_workers_server_and_scheduler_on_one_node() -> None:
    assert command("mxnet", replace(ONE, nproc=2, port=7000)) == Launch(
        env={
            "PYTHONUNBUFFERED": "1",
            "OMP_NUM_THREADS": "1",
            "DMLC_PS_ROOT_URI": "127.0.0.1",
            "DMLC_PS_ROOT_PORT": "7000",
            "DMLC_NODE_HOST": "127.0.0.1",
            "DMLC_NUM_WORKER": "2",
            "DMLC_NUM_SERVER": "1",
        },
        rank_logs=LOGS,
        processes=(
            Process(ARGV, role("worker", 0), "worker 0"),
            Process(ARGV, role("worker", 1), "worker 1"),
            Process(ARGV, role("server", 0), "server 0"),
            Process(ARGV, {"DMLC_ROLE": "scheduler"}, "scheduler"),
        ),
    )


@pytest.mark.parametrize("node", [0, 1])
def test_workers_and_servers_on_two_nodes(node: int) -> None:
    program = replace(TWO, argv=("-m", "pkg"), node_rank=node, workers=3, servers=2)
    argv = ("python3", "-m", "pkg")
    expected = {
        0: (
            Process(argv, role("worker", 0), "worker 0"),
            Process(argv, role("worker", 1), "worker 1"),
            Process(argv, role("server", 1), "server 1"),
            Process(argv, {"DMLC_ROLE": "scheduler"}, "scheduler"),
        ),
        1: (Process(argv, role("worker", 2), "worker 2"), Process(argv, role("server", 0), "server 0")),
    }
    assert command("mxnet", program) == Launch(
        env={
            "PYTHONUNBUFFERED": "1",
            "DMLC_PS_ROOT_URI": "{own-ip}" if node == 0 else "node-0",
            "DMLC_PS_ROOT_PORT": "29500",
            "DMLC_NODE_HOST": "{own-ip}",
            "DMLC_NUM_WORKER": "3",
            "DMLC_NUM_SERVER": "2",
        },
        rank_logs=LOGS,
        processes=expected[node],
    )


@pytest.mark.parametrize(("addresses", "own"), [(("10.0.0.7",), "{own-ip}"), (("10.0.0.7", "10.0.0.8"), "10.0.0.8")])
def test_the_schedulers_address_is_enough(addresses: tuple[str, ...], own: str) -> None:
    launch = command("mxnet", replace(TWO, addresses=addresses, node_rank=1))
    assert (launch.env["DMLC_PS_ROOT_URI"], launch.env["DMLC_NODE_HOST"]) == ("10.0.0.7", own)


def test_only_workers_have_gpus() -> None:
    launch = command("mxnet", replace(ONE, workers=2, gpus=2))
    assert [process.env.get("CUDA_VISIBLE_DEVICES") for process in launch.processes] == ["0", "1", "-1", "-1"]


@pytest.mark.parametrize("kind", ["dist_sync", "dist_async", "dist_device_sync", "dist_sync_device"])
def test_a_script_with_a_distributed_store_is_meant(kind: str) -> None:
    assert choose(f"import mxnet as mx\nkv = mx.kv.create({kind!r})\n") == "mxnet"
    assert choose("import mxnet as mx\nkv = mx.kv.create('local')\n") == "python"
