"""GPUs of plain processes, for any user: no container, no daemon of its own; NVML is a stand-in."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from gpu_host import GpuHost, gpu_host, until
from nvml_machine import Machine

SLEEP = "import os, time\nprint(os.environ['CUDA_VISIBLE_DEVICES'], flush=True)\ntime.sleep(600)\n"


@pytest.fixture
def host(tmp_path: Path, machine: Machine) -> Iterator[GpuHost]:
    """A host with 8 GPUs."""
    with gpu_host(tmp_path, None, machine) as found:
        (found.root / "plain.py").write_text(SLEEP)
        yield found


def run(*words: str) -> list[str]:
    """Return the words of a run without a container."""
    return ["run", "plain.py", "--engine", "process", "--launcher", "python", *words]


def test_plain_processes_lease_wait_and_follow_each_other(host: GpuHost) -> None:
    first = host.start(*run("--gpus", "6", "--name", "first"))
    assert first.stdout is not None
    mine = set(first.stdout.readline().strip().split(","))
    assert len(mine) == 6
    second = host.start(*run("--gpus", "3", "--name", "second"))
    until(lambda: host.jobs().get("second", {}).get("message"))
    assert "2 of 8 GPUs are free" in host.jobs()["second"]["message"]
    assert "PENDING" in host.cli("jobs")
    first.send_signal(signal.SIGINT)
    assert first.wait(60) == -signal.SIGINT
    until(lambda: host.jobs()["second"]["state"] == "RUNNING")
    assert sorted(name for names in host.holders().values() for name in names) == ["second"] * 3
    host.cli("stop", host.jobs()["second"]["id"])
    second.wait(60)
    assert host.holders() == {}


@pytest.mark.parametrize("words", [[], ["-e", "HOME"]])
def test_nothing_is_left_to_wait_that_nobody_else_could_start(host: GpuHost, words: list[str]) -> None:
    everything = host.start(*run("--gpus", "all", "--name", "everything"))
    assert everything.stdout is not None
    everything.stdout.readline()
    said = host.cli(*run("--gpus", "1", "--name", "left", "--detach", *words), fails=True)
    assert said.splitlines()[0].endswith("only this command can start it, so --detach was refused.")
    assert len(said.splitlines()) == 2, "its own threads have nothing to add"
    assert host.jobs()["left"]["state"] == "CANCELLED"
    assert host.gpus()["queue"] == []


def test_what_is_listed_is_the_same_for_people_and_programs(host: GpuHost) -> None:
    job = host.start(*run("--gpus", "1", "--name", "listed"))
    assert job.stdout is not None
    held = job.stdout.readline().strip()
    lines = host.cli("gpus").splitlines()
    assert sum(held in line and "leased" in line for line in lines) == 1
    assert any("job listed" in line for line in lines)
    assert sum("free" in line for line in lines) == 7
    host.cli("stop", host.jobs()["listed"]["id"])


def test_a_killed_shim_and_its_ranks_let_go_of_their_gpus(host: GpuHost) -> None:
    job = host.start(*run("--gpus", "2", "--name", "killed"))
    until(lambda: len(host.holders()) == 2)
    job.send_signal(signal.SIGINT)
    job.send_signal(signal.SIGINT)
    job.wait(60)
    until(lambda: host.holders() == {})


FAILING = """
import os, time
print(os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
time.sleep(4)
raise SystemExit(os.environ["DLENV_ATTEMPT"] == "1")
"""


@pytest.mark.parametrize("lost", [False, True])
def test_the_next_attempt_keeps_its_gpu_unless_it_has_failed(host: GpuHost, machine: Machine, lost: bool) -> None:
    (host.root / "plain.py").write_text(FAILING)
    job = host.start(*run("--gpus", "1", "--retries", "1", "--name", "again"))
    assert job.stdout is not None
    first = job.stdout.readline().strip()
    host.start(*run("--gpus", "all", "--name", "everything"))
    until(lambda: host.jobs().get("everything", {}).get("message"))
    if lost:
        machine.lose(0)
    printed, _ = job.communicate(timeout=120)
    second = printed.split("[dlenv]")[1].splitlines()[1].strip()
    assert (first == second) is not lost
    assert first == machine.cards[0].uuid
