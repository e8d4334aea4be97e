"""A kernel in a container is killed while its notebook is open: the person is told why, once, and can read on."""

from __future__ import annotations

import docker_images
import pytest
from containers import container_environment, open_container_notebook
from labserver import LabServer
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.docker


def test_a_killed_kernel_is_announced_with_its_reason(page: Page, lab: LabServer) -> None:
    with container_environment(lab, "dying-env") as name:
        open_container_notebook(page, lab, name)
        (kernel,) = [row for row in lab.api("GET", "kernels")["kernels"] if row["environment"] == name]
        docker_images.engine().kill(kernel["native_id"])
        announcement = page.get_by_role("alert").filter(has_text=f"The kernel of {name} ended")
        expect(announcement.first).to_be_visible()
        row = page.get_by_role("region", name="Kernels Section").get_by_role("listitem").filter(has_text=name)
        expect(row.locator(".jp-dlenv-State")).to_have_text("running")  # Jupyter has started it again
        expect(announcement).to_have_count(1)
        page.goto("about:blank")
