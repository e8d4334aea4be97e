"""Jobs of several nodes and attempts with GPUs: a real daemon and real containers; GPUs and NVML are stand-ins."""

from __future__ import annotations

import re

import pytest
from gpu_host import GpuHost, until

pytestmark = [pytest.mark.docker, pytest.mark.slow]

SEEN = "import os\nprint(os.environ['DLENV_NODE_RANK'], os.environ['NVIDIA_VISIBLE_DEVICES'], flush=True)\n"
SLEEP = SEEN + "import time\ntime.sleep(600)\n"
TWICE = SEEN + "import sys\nsys.exit(os.environ['DLENV_ATTEMPT'] == '1')\n"
NODES = ("--nodes", "2", "--launcher", "python", "--nproc", "1")


def seen(printed: str) -> list[set[str]]:
    """Return the GPUs that each node saw, in the order of the nodes."""
    rows = sorted(re.findall(r"^(?:\[\d+\] )?(\d) (\S+)$", printed, re.MULTILINE))
    return [set(devices.split(",")) for _node, devices in rows]


def test_each_node_has_gpus_of_its_own(host: GpuHost) -> None:
    first, second = seen(host.cli(*host.run(SEEN, *NODES, "--gpus", "3")))
    assert (len(first), len(second), len(first | second)) == (3, 3, 6)
    assert first | second <= {card.uuid for card in host.machine.cards}
    assert host.holders() == {}


def test_named_gpus_and_all_are_shared_out(host: GpuHost) -> None:
    first, second = seen(host.cli(*host.run(SEEN, *NODES, "--gpus", "0,1")))
    assert {*first, *second} == {card.uuid for card in host.machine.cards[:2]}
    assert list(map(len, seen(host.cli(*host.run(SEEN, *NODES, "--gpus", "all"))))) == [4, 4]
    odd = host.run(SEEN, "--nodes", "3", "--launcher", "python", "--nproc", "1", "--gpus", "all")
    assert "8 GPUs cannot be shared out evenly to 3 nodes" in host.cli(*odd, fails=True)
    assert host.holders() == {}


def test_a_gang_waits_until_there_are_gpus_for_all_of_its_nodes(host: GpuHost) -> None:
    first = host.cli(*host.run(SLEEP, "--gpus", "6", "--detach")).split()[0]
    gang = host.start(*host.run(SEEN, *NODES, "--gpus", "2", "--name", "gang"))
    waiting = until(lambda: (found := host.jobs().get("gang")) and found["message"] and found)
    assert "2 of 8 GPUs are free" in waiting["message"]
    host.cli("stop", first)
    printed, _ = gang.communicate(timeout=120)
    assert gang.returncode == 0, printed
    assert [len(devices) for devices in seen(printed)] == [2, 2]
    assert host.holders() == {}


@pytest.mark.parametrize("nodes", [(), NODES])
def test_another_attempt_has_its_gpus_and_gives_them_back(host: GpuHost, nodes: tuple[str, ...]) -> None:
    printed = host.cli(*host.run(TWICE, *nodes, "--gpus", "2", "--retries", "2", "--name", "twice"))
    assert all(len(devices) == 2 for devices in seen(printed)), printed
    assert len(seen(printed)) == (4 if nodes else 2)
    job = host.jobs()["twice"]
    assert (job["state"], job["attempt"]) == ("SUCCEEDED", 2)
    assert host.holders() == {}


@pytest.mark.parametrize("nodes", [(), NODES])
def test_the_next_attempt_has_the_same_gpus_though_others_wait(host: GpuHost, nodes: tuple[str, ...]) -> None:
    script = SEEN + "import sys, time\ntime.sleep(8)\nsys.exit(os.environ['DLENV_ATTEMPT'] == '1')\n"
    first = host.start(
        *host.run(script, *nodes, "--gpus", "8" if not nodes else "4", "--retries", "1", "--name", "first")
    )
    until(lambda: host.jobs().get("first", {}).get("state") == "RUNNING")
    other = host.start(*host.run(SEEN, "--gpus", "1", "--name", "other"))
    printed, _ = first.communicate(timeout=120)
    assert first.returncode == 0, printed
    found = seen(printed)
    assert found[0] == found[1]
    assert len(set.union(*found)) == 8
    printed, _ = other.communicate(timeout=120)
    assert other.returncode == 0, printed
    jobs = host.jobs()
    assert jobs["other"]["started_at"] >= jobs["first"]["finished_at"]
    assert host.holders() == {}
