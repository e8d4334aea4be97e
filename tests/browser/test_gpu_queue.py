"""A notebook whose kernel waits for a GPU: the sidebar says behind whom, and its button calls the kernel off."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from containers import START_MS
from gpu_daemon import gpu_daemon
from gpu_host import GpuHost, gpu_host, until
from jupyter_server_process import ServerProcess
from nvml_machine import Machine, build
from playwright.sync_api import Page, expect

pytestmark = [pytest.mark.docker, pytest.mark.slow]


@pytest.fixture
def host(tmp_path: Path) -> Iterator[GpuHost]:
    """A host with 8 GPUs, all of them held by a job."""
    library = build(tmp_path)
    with (
        gpu_daemon() as daemon,
        gpu_host(tmp_path, daemon, Machine(tmp_path / "machine", library=library)) as made,
    ):
        made.cli(*made.run("import time\ntime.sleep(600)\n", "--gpus", "all", "--name", "everything", "--detach"))
        yield made


@pytest.fixture
def lab_of(host: GpuHost) -> Iterator[ServerProcess]:
    """A JupyterLab on it."""
    running = host.server("lab")
    try:
        running.wait()
        yield running
    finally:
        running.process.terminate()
        running.process.wait(60)


def test_a_kernel_that_waits_is_called_off_in_the_sidebar(page: Page, host: GpuHost, lab_of: ServerProcess) -> None:
    page.goto(f"{lab_of.url}/lab?token={lab_of.token}&reset")
    page.get_by_role("tab", name="Deep learning environments").click()
    row = page.get_by_role("region", name="Kernels Section").get_by_role("listitem")
    page.get_by_role("button", name="Start a notebook with gpu").click()
    expect(row).to_contain_text("0 of 8 GPUs are free", timeout=START_MS)
    expect(row).to_contain_text("everything")
    row.get_by_role("button", name="Take this kernel out of the queue").click()
    expect(row).to_have_count(0)
    assert host.gpus()["queue"] == []
    until(lambda: host.holders() and all(names == ["everything"] for names in host.holders().values()))
    page.goto("about:blank")
