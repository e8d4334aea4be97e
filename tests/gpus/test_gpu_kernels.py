"""Kernels with GPUs in a real Jupyter server: they wait, keep what they have, and tell of it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import urllib.request
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from gpu_host import GpuHost, until
from jupyter_server_process import Reply, ServerProcess
from nvml_machine import Process

pytestmark = [pytest.mark.docker, pytest.mark.server, pytest.mark.slow]

VISIBLE = "import os; print(os.environ['NVIDIA_VISIBLE_DEVICES'])"
SLEEP = "import time\ntime.sleep(600)\n"


@pytest.fixture
def server(host: GpuHost) -> Iterator[ServerProcess]:
    """A Jupyter server on it."""
    running = host.server()
    try:
        running.wait()
        yield running
    finally:
        running.process.terminate()
        running.process.wait(60)


@pytest.fixture
def beside() -> Iterator[ThreadPoolExecutor]:
    """Threads for requests that take their time."""
    with ThreadPoolExecutor() as threads:
        yield threads


def start(server: ServerProcess, name: str = "gpu") -> str:
    """Start a kernel and return its id."""
    reply = server.call("POST", "/api/kernels", {"name": name, "path": ""})
    assert reply.status == 201, reply.body
    return str(reply.json()["id"])


def visible(server: ServerProcess, kernel_id: str) -> str:
    """Return the GPUs that code in a kernel sees."""
    return asyncio.run(server.converse(kernel_id, VISIBLE)).strip()


def row(server: ServerProcess, **about: str) -> dict[str, Any]:
    """Return our row of the one kernel that is like this."""
    found = server.api("GET", "/kernels").json()["kernels"]
    return next((each for each in found if all(each[key] == value for key, value in about.items())), {})


def occupy(host: GpuHost) -> str:
    """Start a job that holds every GPU and return its id."""
    return host.cli(*host.run(SLEEP, "--gpus", "all", "--name", "everything", "--detach")).strip()


def wish(server: ServerProcess, beside: ThreadPoolExecutor) -> Future[Reply]:
    """Ask for a kernel that will have to wait."""
    return beside.submit(server.call, "POST", "/api/kernels", {"name": "gpu", "path": ""})


def test_a_kernel_holds_one_gpu_and_gives_it_back(host: GpuHost, server: ServerProcess) -> None:
    kernel_id = start(server)
    mine = visible(server, kernel_id)
    assert mine in {card.uuid for card in host.machine.cards}
    assert list(host.holders().values()) == [["gpu"]]
    other = start(server)
    assert visible(server, other) != mine
    server.call("DELETE", f"/api/kernels/{kernel_id}")
    server.call("DELETE", f"/api/kernels/{other}")
    assert host.holders() == {}


def test_a_kernel_waits_with_its_place_and_starts(
    host: GpuHost, server: ServerProcess, beside: ThreadPoolExecutor
) -> None:
    job = occupy(host)
    reply = wish(server, beside)
    waiting = until(lambda: row(server, state="QUEUED", environment="gpu"))
    until(lambda: "everything" in row(server, id=waiting["id"])["message"])
    assert [(item["role"], item["place"]) for item in host.gpus()["queue"]] == [("kernel", 1)]
    host.cli("stop", job)
    answered = reply.result(60)
    assert answered.status == 201
    assert answered.json()["id"] == waiting["id"]
    assert host.gpus()["queue"] == []


@pytest.mark.parametrize("by", ["api", "command"])
def test_a_waiting_kernel_is_called_off(
    host: GpuHost, server: ServerProcess, beside: ThreadPoolExecutor, by: str
) -> None:
    occupy(host)
    reply = wish(server, beside)
    waiting = until(lambda: row(server, state="QUEUED"))
    until(lambda: host.gpus()["queue"])
    assert server.api("POST", f"/kernels/{waiting['id'][:-1]}x/cancel").status == 404
    if by == "api":
        assert server.api("POST", f"/kernels/{waiting['id']}/cancel").status == 204
    else:
        assert waiting["id"] in host.cli("stop", waiting["id"][:8])
    refused = reply.result(60)
    assert refused.status == 409
    assert "taken out of the queue" in refused.json()["message"]
    assert host.gpus()["queue"] == []
    assert row(server, id=waiting["id"]) == {}


def test_a_restarted_and_a_crashed_kernel_keep_their_gpu(host: GpuHost, server: ServerProcess) -> None:
    kernel_id = start(server)
    mine = visible(server, kernel_id)
    host.cli(*host.run(SLEEP, "--gpus", "all", "--name", "greedy", "--detach"))
    server.call("POST", f"/api/kernels/{kernel_id}/restart", {})
    assert visible(server, kernel_id) == mine
    native = row(server, id=kernel_id)["native_id"]
    host.daemon.engine.call(lambda client: client.kill(native))
    until(lambda: row(server, id=kernel_id)["native_id"] not in ("", native))
    until(lambda: row(server, id=kernel_id)["state"] == "RUNNING")
    assert visible(server, kernel_id) == mine
    assert host.jobs()["greedy"]["state"] == "PENDING"
    server.call("DELETE", f"/api/kernels/{kernel_id}")
    until(lambda: host.jobs()["greedy"]["state"] == "RUNNING")  # started by the server


def test_the_next_server_holds_what_its_kernels_hold(host: GpuHost, server: ServerProcess) -> None:
    kernel_id = start(server)
    mine = visible(server, kernel_id)
    server.process.kill()
    server.process.wait()
    assert list(host.holders().values()) == [["gpu"]]  # by its container's label
    second = host.server()
    try:
        second.wait()
        until(lambda: row(second, id=kernel_id))
        second.call("POST", f"/api/kernels/{kernel_id}/restart", {})
        assert visible(second, kernel_id) == mine
        assert list(host.holders().values()) == [["gpu"]]
        second.call("DELETE", f"/api/kernels/{kernel_id}")
        assert host.holders() == {}
    finally:
        second.process.terminate()
        second.process.wait(60)


def test_a_kernel_is_found_again_whatever_was_forbidden_meanwhile(host: GpuHost, server: ServerProcess) -> None:
    host.add("both", "--gpus", "1", "--shared")
    kernel_id = start(server, "both")
    mine = visible(server, kernel_id)
    server.process.kill()
    server.process.wait()
    host.settings(allow_shared_gpus=False, gpu_access="cdi")
    second = host.server()
    try:
        second.wait()
        until(lambda: second.call("GET", f"/api/kernels/{kernel_id}").status == 200)
        assert visible(second, kernel_id) == mine
    finally:
        second.process.terminate()
        second.process.wait(60)


def test_a_server_stops_while_a_restart_waits(host: GpuHost, server: ServerProcess, beside: ThreadPoolExecutor) -> None:
    kernel_id = start(server)
    occupied = 8 - len(host.holders())
    host.cli(*host.run(SLEEP, "--gpus", str(occupied), "--name", "others", "--detach"))
    host.add("gpu", "--gpus", "2")
    beside.submit(server.call, "POST", f"/api/kernels/{kernel_id}/restart", {})
    until(lambda: host.gpus()["queue"])
    server.process.terminate()
    server.process.wait(60)
    assert host.gpus()["queue"] == []


def test_a_pool_holds_its_gpu_and_hands_it_over(host: GpuHost, server: ServerProcess) -> None:
    host.add("pooled", "--gpus", "1", "--pool", "1")
    held = until(host.holders)
    until(lambda: (server.api("GET", "/environments").json()["environments"][1].get("pool_status") or {}).get("ready"))
    kernel_id = start(server, "pooled")
    (index,) = held
    assert visible(server, kernel_id) == host.machine.cards[int(index)].uuid
    holders = {each["id"] for gpu in host.gpus()["gpus"] if gpu["index"] == index for each in gpu["holders"]}
    assert holders == {kernel_id}


def test_a_kernel_s_own_memory_and_use_are_told(host: GpuHost, server: ServerProcess) -> None:
    kernel_id = start(server)
    mine = visible(server, kernel_id)
    native = row(server, id=kernel_id)["native_id"]
    found = host.daemon.engine.call(lambda client: client.inspect_container(native))
    card = next(each for each in host.machine.cards if each.uuid == mine)
    card.processes = [Process(found["State"]["Pid"], memory=3 << 30, percent=40), Process(os.getpid(), memory=1 << 30)]
    card.used = 4 << 30
    host.machine.write()
    gpu = next(each for each in server.api("GET", "/gpus").json()["gpus"] if each["uuid"] == mine)
    assert (gpu["state"], gpu["memory_used_bytes"]) == ("leased", 4 << 30)
    assert [(each["id"], each["memory_bytes"]) for each in gpu["holders"]] == [(kernel_id, 3 << 30)]
    assert gpu["holders"][0]["utilization_percent"] == 40
    assert gpu["foreign_pids"] == [os.getpid()]


def test_the_event_stream_tells_changes(host: GpuHost, server: ServerProcess) -> None:
    address = f"{server.url}/dlenv/api/v1/gpus/events?hz=5"
    request = urllib.request.Request(address, headers={"Authorization": f"token {server.token}"})
    with urllib.request.urlopen(request, timeout=60) as stream:
        first = json.loads(stream.readline())
        assert [gpu["state"] for gpu in first["gpus"]] == ["free"] * 8
        host.machine.cards[2].processes = [Process(os.getpid(), memory=1 << 30)]
        host.machine.write()
        until(lambda: json.loads(stream.readline())["gpus"][2]["state"] == "busy")
        kernel_id = start(server)
        until(lambda: [gpu["holders"] for gpu in json.loads(stream.readline())["gpus"] if gpu["holders"]])
    server.call("DELETE", f"/api/kernels/{kernel_id}")
    assert server.api("GET", "/gpus/events?hz=11").status == 400


def test_a_lost_gpu_is_told_and_a_restart_brings_it_back(host: GpuHost, server: ServerProcess) -> None:
    rules = Path("/sys/fs/cgroup/devices")
    if not rules.is_dir():
        pytest.skip("takes a device away by a file that only the first version of control groups has")
    kernel_id = start(server)
    native = row(server, id=kernel_id)["native_id"]
    folder = next(path for path in rules.rglob(native))
    nodes = host.daemon.handed_out(native)
    assert nodes
    (folder / "devices.deny").write_text("a\n")
    (folder / "devices.allow").write_text("c 1:* rwm\n")
    until(lambda: "lost its GPUs" in row(server, id=kernel_id)["message"])
    said = asyncio.run(server.converse(kernel_id, "%dlgpus"))
    assert "has lost its GPUs" in said
    assert "Restart the kernel" in said
    server.call("POST", f"/api/kernels/{kernel_id}/restart", {})
    until(lambda: row(server, id=kernel_id)["message"] == "")
    assert "lost" not in asyncio.run(server.converse(kernel_id, "%dlgpus"))


def test_a_fault_of_its_gpu_is_told_to_a_kernel(host: GpuHost, server: ServerProcess) -> None:
    kernel_id = start(server)
    mine = visible(server, kernel_id)
    index = next(card.index for card in host.machine.cards if card.uuid == mine)
    host.machine.xid(index, 95)
    until(lambda: "Xid 95" in row(server, id=kernel_id)["message"])
    assert next(gpu for gpu in host.gpus()["gpus"] if gpu["uuid"] == mine)["holders"][0]["id"] == kernel_id


def test_a_stopped_server_leaves_the_queue(host: GpuHost, server: ServerProcess, beside: ThreadPoolExecutor) -> None:
    occupy(host)
    reply = wish(server, beside)
    until(lambda: host.gpus()["queue"])
    server.process.send_signal(signal.SIGKILL)
    server.process.wait()
    assert host.gpus()["queue"] == []
    with pytest.raises(ConnectionError):
        reply.result(60)
