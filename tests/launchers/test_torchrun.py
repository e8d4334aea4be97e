"""Real torchrun under the real shim: logs, progress bars, failures.

``DLENV_TEST_TORCH_PYTHON`` names the interpreter that has torch, where it is not this one.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from jupyter_dlenv.engines import shim
from jupyter_dlenv.engines.folder import RunFolder, ShimResult
from jupyter_dlenv.jobs.diagnosis import Facts, NodeFacts, diagnose, failing_rank
from jupyter_dlenv.launchers import Launch, Program, command

PATIENCE_S = 120
PYTHON = os.environ.get("DLENV_TEST_TORCH_PYTHON", sys.executable)


def has(module: str) -> bool:
    look = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
    return subprocess.run([PYTHON, "-c", look], check=False).returncode == 0


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not has("torch"), reason=f"{PYTHON} has no torch; set DLENV_TEST_TORCH_PYTHON"),
]


class Training:
    """A script under torchrun in a run folder."""

    def __init__(self, tmp_path: Path) -> None:
        self.script = tmp_path / "train.py"
        self.folder = RunFolder(tmp_path / "run")
        self.folder.create()
        self.shim: subprocess.Popen[bytes] | None = None

    def launch(self, nproc: int) -> Launch:
        return command("torchrun", Program(PYTHON, (str(self.script),), nproc, str(self.folder.path), {}))

    def start(self, code: str, nproc: int) -> subprocess.Popen[bytes]:
        self.script.write_text(code)
        launch = self.launch(nproc)
        self.folder.write_launch(launch.argv, "/", launch.env, rank_logs=launch.rank_logs, grace_s=(20, 5))
        self.shim = subprocess.Popen([PYTHON, "-I", "-S", shim.FOLDER, str(self.folder.path)])
        return self.shim

    def run(self, code: str, nproc: int) -> ShimResult:
        self.start(code, nproc).wait(PATIENCE_S)
        result = self.folder.result()
        assert result
        return result

    @property
    def lines(self) -> list[str]:
        return (self.folder.path / "log").read_text().splitlines()


@pytest.fixture
def training(tmp_path: Path) -> Iterator[Training]:
    made = Training(tmp_path)
    yield made
    if made.shim and made.shim.poll() is None:
        made.folder.request_stop(kill=True)
        made.shim.wait(PATIENCE_S)


ALL_REDUCE = """
import torch, torch.distributed as dist
dist.init_process_group("gloo")
total = torch.tensor([dist.get_rank() + 1.0])
dist.all_reduce(total)
print("rank", dist.get_rank(), "of", dist.get_world_size(), "has", total.item())
dist.destroy_process_group()
"""


def test_ranks_find_each_other_and_their_lines_carry_their_rank(training: Training) -> None:
    result = training.run(ALL_REDUCE, nproc=2)
    assert (result.exit_code, result.cause) == (0, "exited")
    assert sorted(training.lines) == ["[1] rank 1 of 2 has 3.0", "rank 0 of 2 has 3.0"]


PIECES = """
import os, random, sys, time
rank = int(os.environ["RANK"])
pick = random.Random(rank)
for number in range(150):
    for stream in (sys.stdout, sys.stderr):
        line = f"rank {rank} {number} " + "x" * pick.randint(0, 200) + "|\\n"
        while line:
            size = pick.randint(1, len(line))
            stream.write(line[:size]); stream.flush()
            line = line[size:]
            time.sleep(pick.choice([0, 0, 0.001]))
"""


def test_four_ranks_at_once_never_garble_a_line(training: Training) -> None:
    assert training.run(PIECES, nproc=4).exit_code == 0
    shape = re.compile(r"(?:\[([1-3])\] )?rank (\d) (\d+) x*\|")
    found = [shape.fullmatch(line) for line in training.lines]
    assert len(found) == 4 * 150 * 2
    assert all(match and (match[1] or "0") == match[2] for match in found)


TQDM = """
import os, time, tqdm
for _ in tqdm.tqdm(range(40), desc="epoch 1", mininterval=0):
    time.sleep(0.05)
print("done")
"""


@pytest.mark.skipif(not has("tqdm"), reason=f"{PYTHON} has no tqdm")
def test_tqdm_moves_on_every_rank(training: Training) -> None:
    process = training.start(TQDM, nproc=2)
    seen: dict[str, set[str]] = {"0": set(), "1": set()}
    while process.poll() is None:
        for rank, line in training.folder.open_lines().items():
            seen[rank].add(line)
        time.sleep(0.02)
    assert process.returncode == 0
    assert min(len(lines) for lines in seen.values()) > 3
    assert all(line.startswith("epoch 1:") for lines in seen.values() for line in lines)
    bars = [line for line in training.lines if "epoch 1" in line]
    assert len(bars) == 2
    assert all("100%" in bar and "40/40" in bar and "\r" not in bar for bar in bars)
    assert sorted(line for line in training.lines if "done" in line) == ["[1] done", "done"]


FAILS = """
import torch.distributed as dist
dist.init_process_group("gloo")
def deeper():
    raise ValueError("no such label: 12")
if dist.get_rank() == 1:
    try:
        deeper()
    except ValueError as error:
        raise RuntimeError("batch 7 is broken") from error
dist.barrier()
"""


def test_the_rank_that_failed_and_its_traceback_are_found(training: Training) -> None:
    result = training.run(FAILS, nproc=2)
    assert result.exit_code == 1
    assert failing_rank(training.folder.launcher_text()) == (1, 1)
    _, errors = training.folder.rank_texts()[1]
    text = diagnose(Facts(1, nodes=(NodeFacts(launcher=errors),))).traceback
    assert text.startswith("Traceback (most recent call last):\n")
    assert 'raise ValueError("no such label: 12")' in text
    assert "The above exception was the direct cause of the following exception:" in text
    assert text.endswith("RuntimeError: batch 7 is broken")


def test_a_rank_that_is_killed_is_found(training: Training) -> None:
    code = "import os, time\nif os.environ['RANK'] == '2': os.kill(os.getpid(), 9)\ntime.sleep(60)"
    assert training.run(code, nproc=3).exit_code == 1
    assert failing_rank(training.folder.launcher_text()) == (2, 137)


STAYS = """
import os, time
print("pid", os.getpid())
try:
    time.sleep(600)
except KeyboardInterrupt:
    print("saved"); raise
"""


@pytest.mark.parametrize("kill", [False, True])
def test_a_stop_reaches_every_rank(training: Training, kill: bool) -> None:
    process = training.start(STAYS, nproc=2)
    deadline = time.monotonic() + PATIENCE_S
    log = training.folder.path / "log"
    while not log.exists() or log.read_text().count("pid") < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    training.folder.request_stop(kill=kill)
    assert process.wait(PATIENCE_S) != 0
    result = training.folder.result()
    assert result
    assert result.cause == "stopped"
    assert log.read_text().count("saved") == (0 if kill else 2)
    pids = re.findall(r"pid (\d+)", log.read_text())
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes a network namespace")
def test_no_network_is_needed_once_the_hostname_resolves(training: Training, tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 localhost dlenv-test\n::1 localhost\n")
    setup = f"mount --bind {hosts} /etc/hosts && hostname dlenv-test && ip link set lo up"
    probe = ["unshare", "--net", "--uts", "--mount", "sh", "-c", setup]
    if subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip("needs namespaces and the ip program")
    training.script.write_text(ALL_REDUCE)
    folder = training.folder
    launch = training.launch(nproc=2)
    folder.write_launch(launch.argv, "/", launch.env, rank_logs=launch.rank_logs, timeout_s=100)
    inside = f'{setup} && exec {PYTHON} -I -S {shim.FOLDER} "{folder.path}"'
    subprocess.run([*probe[:-1], inside], check=True, timeout=PATIENCE_S)
    assert sorted(training.lines) == ["[1] rank 1 of 2 has 3.0", "rank 0 of 2 has 3.0"]
