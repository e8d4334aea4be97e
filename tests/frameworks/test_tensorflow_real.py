"""TensorFlow's strategies for several workers for real."""

from __future__ import annotations

from pathlib import Path

import docker_images
import pytest
from replicas import VENV, run

from jupyter_dlenv.spec import JobState

pytestmark = [pytest.mark.docker, pytest.mark.frameworks]

MIRRORED = """
import json, os
import tensorflow as tf
strategy = tf.distribute.MultiWorkerMirroredStrategy()
index = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
with strategy.scope():
    weight = tf.Variable(1.0, aggregation=tf.VariableAggregation.MEAN)
@tf.function
def step():
    def one():
        total = tf.distribute.get_replica_context().all_reduce("sum", tf.constant(index + 1.0))
        weight.assign_sub(total / 2)
        return total
    return strategy.run(one)
total = step()
print("worker", index, "of", strategy.num_replicas_in_sync, "has", float(total), float(weight.numpy()))
"""
SERVERS = """
import tensorflow as tf
resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
role, index = resolver.task_type, resolver.task_id
if role != "chief":
    print(role, index, "serves")
    tf.distribute.Server(resolver.cluster_spec(), job_name=role, task_index=index, protocol="grpc").join()
strategy = tf.distribute.ParameterServerStrategy(resolver)
coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)
with strategy.scope():
    total = tf.Variable(0.0)
@tf.function
def step(value):
    total.assign_add(value)
for value in range(10):
    coordinator.schedule(step, args=(tf.constant(float(value)),))
coordinator.join()
print("total on", total.device, "is", float(total))
"""


@pytest.fixture(scope="module")
def image() -> str:
    dockerfile = f"FROM {docker_images.BASE}\n{VENV}"
    return docker_images.image_from(dockerfile, "framework-tensorflow", wheels=("tensorflow-cpu==2.21.0",))


@pytest.mark.parametrize(("nnodes", "nproc"), [(1, 1), (1, 2), (2, 1), (2, 2)])
async def test_workers_train_the_same_weights(image: str, tmp_path: Path, nnodes: int, nproc: int) -> None:
    ended = await run("tensorflow", MIRRORED, image, tmp_path, nnodes, nproc=nproc)
    assert ended.status.state is JobState.SUCCEEDED, "\n".join(ended.lines)
    workers = nnodes * nproc
    total = float(sum(range(1, workers + 1)))
    expected = [f"worker {index} of {workers} has {total} {1 - total / 2}" for index in range(workers)]
    assert ended.said("worker ") == expected


async def test_a_proxy_that_is_not_there_hinders_nobody(image: str, tmp_path: Path) -> None:
    proxy = "import os\nos.environ['http_proxy'] = os.environ['https_proxy'] = 'http://192.0.2.1:9'\n"
    ended = await run("tensorflow", proxy + MIRRORED, image, tmp_path, 2)
    assert ended.said("worker ") == [f"worker {index} of 2 has 3.0 -0.5" for index in (0, 1)]


@pytest.mark.parametrize(("nnodes", "nproc"), [(1, 2), (2, 1)])
async def test_servers_and_workers_end_with_their_chief(image: str, tmp_path: Path, nnodes: int, nproc: int) -> None:
    ended = await run("tensorflow-ps", SERVERS, image, tmp_path, nnodes, nproc=nproc)
    assert (ended.status.state, ended.status.exit_code) == (JobState.SUCCEEDED, 0), "\n".join(ended.lines)
    assert ended.said("serves") == ["ps 0 serves", "worker 0 serves", "worker 1 serves"]
    assert ended.said("total on") == ["total on /job:ps/replica:0/task:0/device:CPU:0 is 45.0"]


async def test_a_chief_that_fails_ends_them_too(image: str, tmp_path: Path) -> None:
    script = SERVERS.replace("coordinator.join()", "raise SystemExit(7)")
    ended = await run("tensorflow-ps", script, image, tmp_path, 2)
    assert (ended.status.state, ended.status.exit_code) == (JobState.FAILED, 7), "\n".join(ended.lines)
