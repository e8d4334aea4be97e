"""Launchers are pure: whole commands, compared whole."""

from __future__ import annotations

import pytest

from jupyter_dlenv.errors import InvalidRequest, UnknownOption
from jupyter_dlenv.launchers import NAMES, Launch, choose, command
from jupyter_dlenv.spec import RankLogs


def test_torchrun_on_one_node() -> None:
    launch = command(
        "torchrun",
        python="/usr/bin/python3",
        script="/data/train.py",
        args=("--epochs", "3", "--", "-x"),
        nproc=4,
        run_dir="/dlenv/run",
    )
    assert launch == Launch(
        argv=(
            "/usr/bin/python3",
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            "4",
            "--redirects",
            "3",
            "--log-dir",
            "/dlenv/run/ranks",
            "/data/train.py",
            "--epochs",
            "3",
            "--",
            "-x",
        ),
        env={"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"},
        rank_logs=RankLogs("ranks/*/attempt_*/*/std*.log", -2),
    )


def test_torchrun_with_a_module_and_threads_of_its_own() -> None:
    launch = command(
        "torchrun", python="python3", module="pkg.train", args=["a"], run_dir="/r", env={"OMP_NUM_THREADS": "8"}
    )
    assert launch.argv[3:] == (
        "--standalone",
        "--nproc-per-node",
        "1",
        "--redirects",
        "3",
        "--log-dir",
        "/r/ranks",
        "-m",
        "pkg.train",
        "a",
    )
    assert launch.env == {"PYTHONUNBUFFERED": "1"}


def test_plain_python() -> None:
    script = command("python", python="/opt/python", script="a b.py", args=["--lr", "0.1"], run_dir="/r")
    assert script == Launch(("/opt/python", "a b.py", "--lr", "0.1"), {"PYTHONUNBUFFERED": "1"}, None)
    module = command("python", python="/opt/python", module="pkg", run_dir="/r")
    assert module == Launch(("/opt/python", "-m", "pkg"), {"PYTHONUNBUFFERED": "1"}, None)


def test_plain_python_is_one_process() -> None:
    with pytest.raises(InvalidRequest) as caught:
        command("python", python="python3", script="a.py", nproc=2, run_dir="/r")
    assert caught.value.message == "The launcher python starts one process, not 2."
    assert caught.value.hint == "--launcher torchrun"


@pytest.mark.parametrize(
    ("name", "nearest"), [("torchrnu", "torchrun"), ("pyhton", "python"), ("mpirun", "torchrun"), ("", "python")]
)
def test_an_unknown_launcher_names_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(UnknownOption) as caught:
        command(name, python="python3", script="a.py", run_dir="/r")
    assert caught.value.hint in {f"--launcher {known}" for known in NAMES}
    if name:
        assert caught.value.message == f"There is no launcher {name!r}; the nearest is {nearest}."


@pytest.mark.parametrize("what", [{}, {"script": "a.py", "module": "b"}, {"script": "a.py", "nproc": 0}])
def test_what_cannot_be_launched(what: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest):
        command("torchrun", python="python3", run_dir="/r", **what)  # type: ignore[arg-type]


DISTRIBUTED = [
    "import torch.distributed",
    "import torch.distributed as dist",
    "import torch.distributed.checkpoint as dcp",
    "from torch import nn, distributed",
    "from torch.distributed import all_reduce",
    "from torch.distributed.fsdp import FullyShardedDataParallel",
    "from torch.nn.parallel import DistributedDataParallel as DDP",
    "import torch\nmodel = torch.nn.parallel.DistributedDataParallel(model)",
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
]
NOT_PYTHON = "%matplotlib inline\n!pip install x\n"


@pytest.mark.parametrize("text", DISTRIBUTED)
def test_a_distributed_script_gets_torchrun(text: str) -> None:
    assert choose(text) == "torchrun"


@pytest.mark.parametrize("text", PLAIN)
def test_any_other_script_gets_python(text: str) -> None:
    assert choose(text) == "python"


@pytest.mark.parametrize("text", [text for text in DISTRIBUTED if "env.get" not in text])
def test_what_is_no_python_is_read_as_text(text: str) -> None:
    assert choose(NOT_PYTHON + text) == "torchrun"


@pytest.mark.parametrize("text", PLAIN[:7] + PLAIN[8:])
def test_other_text_gets_python(text: str) -> None:
    assert choose(NOT_PYTHON + text) == "python"


@pytest.mark.parametrize("text", ["\0", "(" * 100_000, "x = " + "-" * 50_000 + "1", "a." * 20_000 + "b", "def f(:\n"])
def test_no_text_is_too_odd(text: str) -> None:
    assert choose(text) == "python"
