"""PaddlePaddle for real: collective training, and parameter servers as for a wide-and-deep model."""

from __future__ import annotations

import re
from pathlib import Path

import docker_images
import pytest
from replicas import VENV, run

from jupyter_dlenv.spec import JobState

pytestmark = [pytest.mark.docker, pytest.mark.frameworks]

DOCKERFILE = f"""FROM {docker_images.BASE}
RUN apt-get update && apt-get install -y --no-install-recommends libgomp1
{VENV}"""
NEW = ("paddlepaddle==3.3.1",)
OLD = ("paddlepaddle==2.6.2", "numpy<2", "protobuf==4.25.8", "setuptools<81")  # the last with parameter servers

ALL_REDUCE = """
import paddle, paddle.distributed as dist
dist.init_parallel_env()
total = paddle.to_tensor([dist.get_rank() + 1.0])
if dist.get_world_size() > 1:
    dist.all_reduce(total)
print("rank", dist.get_rank(), "of", dist.get_world_size(), "has", total.item())
"""
FLEET = """
import paddle
from paddle.distributed import fleet
fleet.init(is_collective=True)
linear = paddle.nn.Linear(1, 1, weight_attr=paddle.nn.initializer.Constant(1.0))
optimizer = fleet.distributed_optimizer(paddle.optimizer.SGD(0.5, parameters=linear.parameters()))
model = fleet.distributed_model(linear)
model(paddle.full([1, 1], fleet.worker_index() + 1.0)).sum().backward()
optimizer.step()
print("trainer", fleet.worker_index(), "of", fleet.worker_num(), "has", linear.weight.item())
"""
WIDE_AND_DEEP = """
import numpy, paddle
import paddle.distributed.fleet as fleet
paddle.enable_static()
fleet.init(is_collective=False)
words = paddle.static.data("words", [None, 1], "int64")
wide = paddle.static.data("wide", [None, 2], "float32")
label = paddle.static.data("label", [None, 1], "float32")
table = paddle.static.nn.embedding(words, [10, 4], is_sparse=True, param_attr=paddle.ParamAttr(name="table"))
deep = paddle.reshape(table, [-1, 4])
out = paddle.static.nn.fc(paddle.concat([wide, deep], axis=1), 1)
loss = paddle.mean(paddle.nn.functional.square_error_cost(out, label))
strategy = fleet.DistributedStrategy()
strategy.a_sync = True
fleet.distributed_optimizer(paddle.optimizer.SGD(0.05), strategy).minimize(loss)
if fleet.is_server():
    fleet.init_server()
    print("server", fleet.server_index(), "of", fleet.server_num(), "serves")
    fleet.run_server()
else:
    executor = paddle.static.Executor(paddle.CPUPlace())
    executor.run(paddle.static.default_startup_program())
    fleet.init_worker()
    pick, losses = numpy.random.RandomState(fleet.worker_index()), []
    for _ in range(300):
        feed = {"words": pick.randint(0, 10, [16, 1]), "wide": pick.rand(16, 2).astype("float32")}
        feed["label"] = (feed["wide"].sum(1, keepdims=True) + feed["words"] * 0.1).astype("float32")
        losses.append(float(executor.run(feed=feed, fetch_list=[loss])[0]))
    fleet.barrier_worker()
    before, after = sum(losses[:5]) / 5, sum(losses[-5:]) / 5
    print("trainer", fleet.worker_index(), "of", fleet.worker_num(), "from", before, "to", after)
    fleet.stop_worker()
"""


@pytest.fixture(scope="module")
def image() -> str:
    return docker_images.image_from(DOCKERFILE, "framework-paddle", wheels=NEW)


@pytest.fixture(scope="module")
def image_with_servers() -> str:
    return docker_images.image_from(DOCKERFILE, "framework-paddle-ps", wheels=OLD)


@pytest.mark.parametrize(("nnodes", "nproc"), [(1, 1), (1, 2), (2, 1), (2, 2)])
async def test_ranks_add_up_and_each_line_comes_once(image: str, tmp_path: Path, nnodes: int, nproc: int) -> None:
    ended = await run("paddle", ALL_REDUCE, image, tmp_path, nnodes, nproc=nproc)
    assert ended.status.state is JobState.SUCCEEDED, "\n".join(ended.lines)
    ranks = nnodes * nproc
    total = float(sum(range(1, ranks + 1)))
    assert ended.said("rank ") == [f"rank {rank} of {ranks} has {total}" for rank in range(ranks)]


async def test_fleet_trains_the_same_weights(image: str, tmp_path: Path) -> None:
    ended = await run("paddle", FLEET, image, tmp_path, 2)
    assert ended.status.state is JobState.SUCCEEDED, "\n".join(ended.lines)
    assert ended.said("trainer ") == ["trainer 0 of 2 has 0.25", "trainer 1 of 2 has 0.25"]


async def test_an_older_paddle_understands_the_same(image_with_servers: str, tmp_path: Path) -> None:
    ended = await run("paddle", ALL_REDUCE, image_with_servers, tmp_path, 2)
    assert ended.said("rank ") == ["rank 0 of 2 has 3.0", "rank 1 of 2 has 3.0"]


async def test_a_rank_that_fails_ends_all(image: str, tmp_path: Path) -> None:
    script = ALL_REDUCE.replace("total =", "if dist.get_rank() == 1: raise SystemExit(7)\ntotal =")
    ended = await run("paddle", script, image, tmp_path, nproc=2)
    assert (ended.status.state, ended.status.exit_code) == (JobState.FAILED, 7), "\n".join(ended.lines)


@pytest.mark.parametrize(
    ("nnodes", "trainers", "servers"),
    [(1, 2, 1), (2, 2, 1), (2, 2, 2), (2, 1, 1)],
    ids=["one node", "two nodes", "servers on both", "a node of servers only"],
)
async def test_trainers_learn_on_their_servers(
    image_with_servers: str, tmp_path: Path, nnodes: int, trainers: int, servers: int
) -> None:
    roles = {"workers": trainers, "servers": servers}
    ended = await run("paddle-ps", WIDE_AND_DEEP, image_with_servers, tmp_path, nnodes, **roles)
    assert (ended.status.state, ended.status.exit_code) == (JobState.SUCCEEDED, 0), "\n".join(ended.lines)
    assert ended.said("serves") == [f"server {index} of {servers} serves" for index in range(servers)]
    found = [re.fullmatch(r"trainer (\d) of (\d) from (\S+) to (\S+)", line) for line in ended.said("trainer ")]
    assert [(match[1], match[2]) for match in found if match] == [(str(i), str(trainers)) for i in range(trainers)]
    assert all(match and float(match[4]) < float(match[3]) / 2 for match in found)
