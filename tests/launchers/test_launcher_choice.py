"""Which launcher a script is written for: realistic scripts, notebooks' leftovers, and texts that nobody writes."""

from __future__ import annotations

import pytest

from jupyter_dlenv.launchers import NAMES, choose
from jupyter_dlenv.launchers.choice import ROWS

NOT_PYTHON = "%matplotlib inline\n!pip install x\n"

DDP = """
import os
import torch
import torch.nn as nn
from torch.utils.data.distributed import DistributedSampler
import torch.distributed as dist

def main():
    dist.init_process_group("nccl")
    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))

if __name__ == "__main__":
    main()
"""
ACCELERATE = """
from datasets import load_dataset
from accelerate import Accelerator
accelerator = Accelerator(mixed_precision="bf16")
model, optimizer = accelerator.prepare(model, optimizer)
"""
DEEPSPEED = """
import argparse, deepspeed, torch
parser = argparse.ArgumentParser()
parser.add_argument("--local_rank", type=int, default=-1)
parser = deepspeed.add_config_arguments(parser)
engine, _, _, _ = deepspeed.initialize(args=parser.parse_args(), model=model)
"""
HOROVOD = """
import torch
import torch.distributed  # for a type
import horovod.torch as hvd
hvd.init()
torch.cuda.set_device(hvd.local_rank())
"""
HOROVOD_TF = "import tensorflow as tf\nimport horovod.tensorflow.keras as hvd\nhvd.init()\n"
MPI = """
from mpi4py import MPI
import numpy as np
total = MPI.COMM_WORLD.allreduce(MPI.COMM_WORLD.Get_rank())
"""
MPI_TORCH = """
import torch as th
import torch.distributed as dist
from mpi4py import MPI
dist.init_process_group(backend="nccl", init_method="env://")
"""
JAX = """
import jax, jax.numpy as jnp
jax.distributed.initialize()
print(jax.process_index(), jax.device_count())
"""
JAX_UTILS = "import jax\nfrom jax.experimental import multihost_utils\nmultihost_utils.sync_global_devices('a')\n"
MIRRORED = """
import tensorflow as tf
strategy = tf.distribute.MultiWorkerMirroredStrategy()
with strategy.scope():
    model = tf.keras.Sequential([tf.keras.layers.Dense(10)])
"""
OLD_MIRRORED = "import tensorflow as tf\ns = tf.distribute.experimental.CollectiveAllReduceStrategy()\n"
TF_CONFIG = """
import json, os
import tensorflow as tf
config = json.loads(os.environ.get("TF_CONFIG", "{}"))
"""
TF_SERVERS = """
import os, json
import tensorflow as tf
resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
if resolver.task_type in ("worker", "ps"):
    tf.distribute.Server(resolver.cluster_spec(), resolver.task_type, resolver.task_id).join()
strategy = tf.distribute.ParameterServerStrategy(resolver)
"""
PADDLE = """
import paddle
import paddle.distributed as dist
dist.init_parallel_env()
model = paddle.DataParallel(paddle.nn.Linear(10, 1))
"""
FLEET = """
import paddle
from paddle.distributed import fleet
fleet.init(is_collective=True)
optimizer = fleet.distributed_optimizer(optimizer)
"""
FLEET_ROLE = """
import paddle
import paddle.distributed.fleet as fleet
role = fleet.PaddleCloudRoleMaker(is_collective=True)
fleet.init(role)
"""
WIDE_AND_DEEP = """
import paddle
import paddle.distributed.fleet as fleet
role = fleet.PaddleCloudRoleMaker()
fleet.init(role)
if fleet.is_server():
    fleet.init_server()
    fleet.run_server()
else:
    fleet.init_worker()
"""
FLEET_BASE = """
import paddle
from paddle.distributed.fleet.base import role_maker
import paddle.distributed.fleet as fleet
fleet.init(role_maker.PaddleCloudRoleMaker(is_collective=False))
"""
FLEET_POSITIONAL = """
import paddle
import paddle.distributed.fleet as fleet
fleet.init(fleet.PaddleCloudRoleMaker(True))
"""
FLUID_COLLECTIVE = """
import paddle.fluid as fluid
import paddle.fluid.incubate.fleet.base.role_maker as role_maker
from paddle.fluid.incubate.fleet.collective import fleet
fleet.init(role_maker.PaddleCloudRoleMaker(is_collective=True))
"""
MXNET = """
import mxnet as mx
store = mx.kv.create("dist_sync")
trainer = mx.gluon.Trainer(params, "sgd", kvstore=store)
"""
MXNET_ARGUMENT = """
import argparse
import mxnet as mx
parser = argparse.ArgumentParser()
parser.add_argument("--kv-store", default='dist_device_sync')
"""

WRITTEN_FOR = [
    (DDP, "torchrun"),
    (ACCELERATE, "torchrun"),
    (DEEPSPEED, "torchrun"),
    (HOROVOD, "horovod"),
    (HOROVOD_TF, "horovod"),
    (MPI, "mpi"),
    (MPI_TORCH, "mpi"),
    (JAX, "jax"),
    (JAX_UTILS, "jax"),
    (MIRRORED, "tensorflow"),
    (OLD_MIRRORED, "tensorflow"),
    (TF_CONFIG, "tensorflow"),
    (TF_SERVERS, "tensorflow-ps"),
    (PADDLE, "paddle"),
    (FLEET, "paddle"),
    (FLEET_ROLE, "paddle"),
    (FLEET_POSITIONAL, "paddle"),
    (FLUID_COLLECTIVE, "paddle"),
    (WIDE_AND_DEEP, "paddle-ps"),
    (FLEET_BASE, "paddle-ps"),
    (MXNET, "mxnet"),
    (MXNET_ARGUMENT, "mxnet"),
]

TORCH = "import torch\nmodel = torch.nn.Linear(2, 2)\n"
ONE_OR_SEVERAL = [
    (TORCH, "torchrun"),
    ("from transformers import Trainer, TrainingArguments\n", "torchrun"),
    ("import lightning as L\ntrainer = L.Trainer(devices=2)\n", "torchrun"),
    ("import jax\nimport torch  # its data loaders\n", "jax"),
    ("from flax import linen\n", "jax"),
    ("import jax\nimport tensorflow as tf\nimport tensorflow_datasets as tfds\n", "jax"),
    ("import torch\nimport tensorflow as tf\n", "torchrun"),
    ("import tensorflow as tf\nmodel = tf.keras.Sequential()\n", "tensorflow"),
    ("import keras\n", "tensorflow"),
    ("import paddle\nmodel = paddle.nn.Linear(2, 2)\n", "paddle"),
    ("import mxnet as mx\n", "mxnet"),
    ("import mxnet as mx\nstore = mx.kv.create('local')\n", "mxnet"),
    ("import numpy as np\nprint(np.ones(2))\n", "python"),
    ("", "python"),
    ("from . import deepspeed\nfrom .accelerate import Accelerator\n", "python"),
    ("accelerate = args.deepspeed\nmpi4py = horovod = None\n", "python"),
    ("print('torch.distributed', 'horovod', \"mpi4py\")\n", "python"),
]

OPTIONAL = [
    ("try:\n    from mpi4py import MPI\nexcept ImportError:\n    MPI = None\n", "mpi"),
    ("try:\n    import horovod.torch as h\n    h.init()\nexcept (OSError, ImportError):\n    h = 0\n", "horovod"),
    ("try:\n    import horovod.torch\nexcept:\n    pass\n", "horovod"),
    ("try:\n    import horovod.torch\nexcept Exception:\n    pass\nelse:\n    from mpi4py import MPI\n", "horovod"),
    ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import horovod\n", "horovod"),
    ("import typing as t\nif t.TYPE_CHECKING:\n    from mpi4py.MPI import Comm\n", "mpi"),
    ("try:\n    import torch\nexcept ModuleNotFoundError:\n    torch = None\n", "torchrun"),
]
NEEDED = [
    ("try:\n    from mpi4py import MPI\nexcept ImportError:\n    raise SystemExit('pip install mpi4py')\n", "mpi"),
    ("import sys\ntry:\n    import horovod\nexcept ImportError as e:\n    print(e)\n    sys.exit(1)\n", "horovod"),
    ("try:\n    import horovod.torch as hvd\nfinally:\n    print()\n", "horovod"),
    ("try:\n    import horovod.torch as hvd\nexcept OSError:\n    pass\n", "horovod"),
    ("try:\n    import torch.distributed as d\nexcept ImportError:\n    d = 0\nd.init_process_group()\n", "torchrun"),
    ("import typing\nif typing.TYPE_CHECKING:\n    pass\nelse:\n    import horovod\n", "horovod"),
]

DISTRIBUTED = [
    "import torch.distributed",
    "import torch.distributed as dist",
    "import torch.distributed.checkpoint as dcp",
    "from torch import nn, distributed",
    "from torch import (\n    nn,\n    distributed,\n)",
    "from torch.distributed import all_reduce",
    "from torch.distributed.fsdp import FullyShardedDataParallel",
    "from torch.nn.parallel import DistributedDataParallel as DDP",
    "import torch\nmodel = torch.nn.parallel.DistributedDataParallel(model)",
    "import torch as t\nt.distributed.barrier()",
    "import torch\nif torch.distributed.is_available(): pass",
    "from helpers import *\ninit_process_group('gloo')",
    "import os\nrank = int(os.environ['RANK'])",
    "import os\nrank = os.environ.get('LOCAL_RANK', 0)",
    "from os import getenv\nrank = getenv('RANK')",
    "from os import environ as env\nrank = env.get('LOCAL_RANK')",
    "def main():\n    import torch.distributed as dist\n    dist.barrier()",
]
PLAIN = [
    "",
    "import torch\nprint(torch.__version__)",
    "print('RANK')",
    "RANK = 3",
    "scores = {'RANK': 1}\nprint(scores['RANK'], scores.get('RANK'))",
    "import distributed\ndistributed.Client()",
    "import torchvision.distributed_things",
    "# import torch.distributed\n'''init_process_group'''",
    "import os\nos.environ['HOME']",
    "print('\\d')",
    "import jax, os\nrank = os.environ['RANK']",
]


@pytest.mark.parametrize(("text", "launcher"), WRITTEN_FOR)
def test_a_script_gets_the_launcher_that_it_is_written_for(text: str, launcher: str) -> None:
    assert choose(text) == choose(text, nproc=2) == choose(text, nnodes=2) == launcher


@pytest.mark.parametrize(("text", "launcher"), WRITTEN_FOR)
def test_so_does_what_is_no_python(text: str, launcher: str) -> None:
    assert choose(NOT_PYTHON + text) == launcher


@pytest.mark.parametrize(("text", "launcher"), ONE_OR_SEVERAL)
def test_several_processes_get_the_launcher_of_their_framework(text: str, launcher: str) -> None:
    assert choose(text) == "python"
    assert choose(text, nproc=2) == choose(text, nnodes=2) == launcher


@pytest.mark.parametrize(("text", "launcher"), ONE_OR_SEVERAL[:13])
def test_so_do_several_processes_of_what_is_no_python(text: str, launcher: str) -> None:
    assert choose(NOT_PYTHON + text) == "python"
    assert choose(NOT_PYTHON + text, nproc=2) == launcher


@pytest.mark.parametrize(("text", "launcher"), OPTIONAL)
def test_what_a_script_can_do_without_decides_where_nothing_else_does(text: str, launcher: str) -> None:
    assert choose(text) == "python"
    assert choose(text, nproc=2) == choose(text, nnodes=2) == launcher
    assert choose(f"import torch.distributed\n{text}") == choose(f"{text}import torch\n", nproc=2) == "torchrun"


@pytest.mark.parametrize(("text", "launcher"), NEEDED)
def test_what_it_cannot_do_without_decides(text: str, launcher: str) -> None:
    assert choose(text) == choose(text, nproc=2) == launcher


@pytest.mark.parametrize("text", DISTRIBUTED)
def test_a_distributed_script_gets_torchrun(text: str) -> None:
    assert choose(text) == "torchrun"


@pytest.mark.parametrize("text", PLAIN)
def test_any_other_script_gets_python(text: str) -> None:
    assert choose(text) == "python"


@pytest.mark.parametrize("text", [text for text in DISTRIBUTED if "env.get" not in text])
def test_what_is_no_python_is_read_as_text(text: str) -> None:
    assert choose(NOT_PYTHON + text) == "torchrun"


@pytest.mark.parametrize("text", [text for text in PLAIN if not text.startswith("#")])
def test_other_text_gets_python(text: str) -> None:
    assert choose(NOT_PYTHON + text) == "python"


ODD = [
    "\0",
    "(" * 100_000,
    "x = " + "-" * 50_000 + "1",
    "a." * 20_000 + "b",
    "def f(:\n",
    "f(" * 50_000,
    "\n" * 500_000,
    "%x\n" + " " * 500_000,
    "%x\n" + "import a, " * 50_000,
    "a b " * 100_000,
    "x = [" + "1," * 100_000 + "]",
]


@pytest.mark.parametrize("text", ODD, ids=range(len(ODD)))
def test_no_text_is_too_odd(text: str) -> None:
    assert choose(text) == "python"


def test_every_row_names_a_launcher() -> None:
    assert {row.launcher for row in ROWS} <= set(NAMES)
