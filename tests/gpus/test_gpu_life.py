"""Kernels and jobs with GPUs on one host: a real daemon and real containers; GPUs and NVML are stand-ins."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from typing import Any

import pytest
from gpu_host import GpuHost, until
from nvml_machine import Machine, Process

pytestmark = [pytest.mark.docker, pytest.mark.slow]

SEEN = (
    "import glob, os\nprint(sorted(glob.glob('/dev/nvidia[0-9]*')), os.environ['NVIDIA_VISIBLE_DEVICES'], flush=True)\n"
)
SLEEP = SEEN + "import time\ntime.sleep(600)\n"


def uuid(machine: Machine, index: int) -> str:
    """Return a GPU's UUID."""
    return machine.cards[index].uuid


def test_a_job_sees_its_gpus_and_no_others(host: GpuHost) -> None:
    printed = host.cli(*host.run(SEEN, "--gpus", "2"))
    nodes, visible = printed.rsplit(" ", 1)
    assert len(json.loads(nodes.replace("'", '"'))) == 2
    leased = set(visible.strip().split(","))
    assert leased <= {card.uuid for card in host.machine.cards}
    assert len(leased) == 2
    assert host.holders() == {}


def test_two_jobs_never_share_and_a_third_waits_its_turn(host: GpuHost) -> None:
    first = host.start(*host.run(SLEEP, "--gpus", "6", "--name", "first"))
    until(lambda: host.jobs().get("first", {}).get("state") == "RUNNING")
    second = host.start(*host.run(SLEEP, "--gpus", "4", "--name", "second"))
    waiting = until(lambda: (found := host.jobs().get("second")) and found["message"] and found)
    assert "2 of 8 GPUs are free" in waiting["message"]
    assert "first" in waiting["message"]
    assert waiting["state"] == "PENDING"
    small = host.start(*host.run(SLEEP, "--gpus", "2", "--name", "small"))
    until(lambda: host.jobs().get("small", {}).get("message"))
    report = host.gpus()
    assert [(item["name"], item["place"]) for item in report["queue"]] == [("second", 1), ("small", 2)]
    assert sorted(name for names in host.holders().values() for name in names) == ["first"] * 6
    host.cli("stop", host.jobs()["first"]["id"])
    until(lambda: {job["state"] for name, job in host.jobs().items() if name != "first"} == {"RUNNING"})
    assert sorted(name for names in host.holders().values() for name in names) == ["second"] * 4 + ["small"] * 2
    assert all(len(names) == 1 for names in host.holders().values())
    for process in (second, small):
        process.send_signal(signal.SIGINT)
        process.wait(60)
    assert first.wait(60) != 0
    assert host.holders() == {}


def test_a_waiting_job_is_stopped_where_it_waits(host: GpuHost) -> None:
    host.start(*host.run(SLEEP, "--gpus", "all", "--name", "first"))
    until(lambda: host.jobs().get("first", {}).get("state") == "RUNNING")
    waits = host.start(*host.run(SLEEP, "--gpus", "1", "--name", "waits"))
    until(lambda: host.jobs().get("waits", {}).get("message"))
    host.cli("stop", host.jobs()["waits"]["id"])
    assert host.jobs()["waits"]["state"] == "CANCELLED"
    assert waits.wait(60) != 0
    assert host.gpus()["queue"] == []


def test_without_anybody_alive_a_job_says_so_and_an_agent_starts_it(host: GpuHost) -> None:
    first = host.cli(*host.run(SLEEP, "--gpus", "8", "--name", "first", "--detach")).strip()
    host.cli(*host.run(SEEN, "--gpus", "1", "--name", "later", "--detach"))
    waiting = host.jobs()["later"]
    assert waiting["state"] == "PENDING"
    assert "jupyter dlenv agent" in waiting["message"]
    host.cli("stop", first)
    assert host.jobs()["later"]["state"] == "PENDING"  # nobody is there, as it says
    agent = host.start("agent")
    until(lambda: host.jobs()["later"]["state"] == "SUCCEEDED")
    agent.send_signal(signal.SIGTERM)
    assert agent.wait(30) == 0


def test_gpus_of_somebody_else_are_not_leased_unless_forced(host: GpuHost) -> None:
    for card in host.machine.cards[1:]:
        card.processes = [Process(os.getpid(), memory=1 << 30)]
        card.used = 1 << 30
    host.machine.write()
    states = {row["index"]: row["state"] for row in host.gpus()["gpus"]}
    assert states == {"0": "free", **{str(index): "busy" for index in range(1, 8)}}
    taken = host.cli(*host.run(SEEN, "--gpus", "1")).rsplit(" ", 1)[1].strip()
    assert taken == uuid(host.machine, 0)
    forced = host.cli(*host.run(SEEN, "--gpus", "2+busy")).rsplit(" ", 1)[1].strip().split(",")
    assert len(forced) == 2
    assert uuid(host.machine, 0) in forced


def test_what_can_never_be_is_refused_at_once(host: GpuHost) -> None:
    assert "8" in host.cli(*host.run(SEEN, "--gpus", "9"), fails=True)
    assert "GPU-none" in host.cli(*host.run(SEEN, "--gpus", "GPU-none"), fails=True)
    assert "--gpu-memory 80g" in host.cli(*host.run(SEEN, "--gpus", "1", "--gpu-memory", "500g"), fails=True)


def test_named_gpus_are_those(host: GpuHost) -> None:
    printed = host.cli(*host.run(SEEN, "--gpus", "3,5"))
    assert set(printed.rsplit(" ", 1)[1].strip().split(",")) == {uuid(host.machine, 3), uuid(host.machine, 5)}


def test_dry_run_says_what_would_be_and_holds_nothing(host: GpuHost) -> None:
    printed = host.cli(*host.run(SEEN, "--gpus", "2", "--dry-run"))
    assert "--gpus" in printed
    assert "GPU-" in printed
    assert host.holders() == {}


def test_a_process_job_holds_its_gpus_until_its_last_process(host: GpuHost) -> None:
    (host.root / "plain.py").write_text(
        "import os, time\nprint(os.environ['CUDA_VISIBLE_DEVICES'], flush=True)\ntime.sleep(600)\n"
    )
    running = host.start("run", "plain.py", "--engine", "process", "--gpus", "1,", "--name", "plain")
    assert running.stdout is not None
    assert running.stdout.readline().strip() == uuid(host.machine, 1)
    assert host.holders() == {"1": ["plain"]}
    running.kill()  # whoever submitted it does not hold it
    running.wait()
    assert host.holders() == {"1": ["plain"]}
    host.cli("stop", host.jobs()["plain"]["id"])
    assert host.holders() == {}


def test_a_job_whose_secret_value_is_gone_cannot_start_later(host: GpuHost) -> None:
    host.env["TOKEN"] = "secret-value"
    host.cli(*host.run(SLEEP, "--gpus", "8", "--name", "first", "--detach"))
    submitted = host.start(*host.run(SEEN, "--gpus", "1", "--name", "later", "-e", "TOKEN"))
    until(lambda: host.jobs().get("later", {}).get("message"))
    submitted.kill()
    submitted.wait()
    later = host.jobs()["later"]
    assert later["state"] == "FAILED"
    assert "submitted to has ended" in later["message"]
    data = host.root.parent / "data"
    assert not [path for path in data.rglob("*") if path.is_file() and b"secret-value" in path.read_bytes()]


def test_a_restart_of_the_host_is_told_and_the_queue_goes_on(host: GpuHost) -> None:
    first = host.cli(*host.run(SLEEP, "--gpus", "8", "--name", "first", "--detach")).strip()
    host.cli(*host.run(SEEN, "--gpus", "1", "--name", "later", "--detach"))
    # What a restart does: another boot id, containers killed, and a ledger that is empty.
    started = host.root.parent / "data" / "dlenv" / "jobs" / first / "started.json"
    started.write_text(json.dumps({**json.loads(started.read_text()), "boot_id": "another"}))
    host.daemon.kill_all()
    shutil.rmtree(host.ledger)
    ended = host.jobs()["first"]
    assert (ended["state"], ended["reason"]) == ("FAILED", "host restarted")
    assert "restarted" in ended["message"]
    assert host.jobs()["later"]["state"] == "PENDING"
    host.start("agent")
    until(lambda: host.jobs()["later"]["state"] == "SUCCEEDED")


def test_two_agents_start_each_job_once(host: GpuHost) -> None:
    first = host.cli(*host.run(SLEEP, "--gpus", "8", "--name", "first", "--detach")).strip()
    for number in range(3):
        host.cli(*host.run(SEEN, "--gpus", "2", "--name", f"later-{number}", "--detach"))
    shutil.rmtree(host.ledger)  # as after a restart of the host, when both begin at once
    host.cli("stop", first)
    for _agent in range(2):
        host.start("agent")
    ended = until(lambda: (jobs := host.jobs()) and all(job["finished_at"] for job in jobs.values()) and jobs)
    assert {job["state"] for name, job in ended.items() if name != "first"} == {"SUCCEEDED"}
    assert host.holders() == {}


def test_a_shell_takes_its_gpus_at_once_or_not_at_all(host: GpuHost) -> None:
    argv = [sys.executable, "-m", "jupyter_dlenv", "shell", "gpu", "--gpus", "2"]
    asked: dict[str, Any] = {"cwd": host.root, "env": host.env, "capture_output": True, "text": True, "check": False}
    done = subprocess.run(argv, input="echo $NVIDIA_VISIBLE_DEVICES\n", timeout=120, **asked)
    assert done.stdout.count("GPU-") == 2, done
    until(lambda: host.holders() == {})
    host.cli(*host.run(SLEEP, "--gpus", "7", "--name", "first", "--detach"))
    refused = subprocess.run(argv, input="", timeout=120, **asked)
    assert refused.returncode != 0
    assert "1 of 8 GPUs" in refused.stderr


def test_sharing_is_asked_for_by_all_and_can_be_forbidden(host: GpuHost) -> None:
    one = host.cli(*host.run(SLEEP, "--gpus", "0,", "--shared", "--name", "one", "--detach")).strip()
    host.cli(*host.run(SEEN, "--gpus", "0,", "--shared", "--name", "two"))
    host.cli(*host.run(SEEN, "--gpus", "0,", "--name", "alone", "--detach"))
    assert host.jobs()["alone"]["state"] == "PENDING"
    assert host.holders() == {"0": ["one"]}
    host.cli("stop", one)
    host.settings(allow_shared_gpus=False)
    assert "allow_shared_gpus" in host.cli(*host.run(SEEN, "--gpus", "1", "--shared"), fails=True)


def test_a_driver_that_hangs_holds_nobody_up(host: GpuHost) -> None:
    host.machine.hang("nvmlDeviceGetMemoryInfo_v2")
    report = host.gpus()
    assert report["state"] == "unknown"
    assert "has not answered" in report["message"]
    host.machine.heal()
    assert host.gpus()["state"] == "ok"
