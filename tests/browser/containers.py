"""A notebook with its kernel in a container, as a person opens one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import docker_images
from labserver import LabServer
from playwright.sync_api import Page, expect

START_MS = 120_000  # the first start of a Python minor makes its runtime


@contextmanager
def container_environment(lab: LabServer, name: str) -> Iterator[str]:
    """An environment of a bare image; its kernels are shut down in the end."""
    lab.api("PUT", f"environments/{name}", {"image": docker_images.base_image()})
    try:
        yield name
    finally:
        for kernel in lab.call("GET", "api/kernels"):
            if kernel["name"] == name:
                lab.call("DELETE", f"api/kernels/{kernel['id']}")
        lab.api("DELETE", f"environments/{name}")


def open_container_notebook(page: Page, lab: LabServer, name: str) -> None:
    """Start a notebook from the sidebar and wait until its kernel is there."""
    page.goto(lab.page())
    page.get_by_role("tab", name="Deep learning environments").click()
    page.get_by_role("button", name=f"Start a notebook with {name}").click()
    title = f"{name} ({docker_images.base_image()}) | Idle"
    expect(page.get_by_role("button", name=title)).to_be_visible(timeout=START_MS)
