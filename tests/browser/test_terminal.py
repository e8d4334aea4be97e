"""A terminal of JupyterLab's own in a kernel's container, opened from the sidebar and typed into."""

from __future__ import annotations

from collections.abc import Iterator

import docker_images
import pytest
from containers import container_environment, open_container_notebook
from labserver import LabServer, running_lab
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.docker
# The terminal draws on a canvas; for screen readers, and for tests, it writes text as well.
SETTINGS: dict[str, object] = {"@jupyterlab/terminal-extension:plugin": {"screenReaderMode": True}}


@pytest.fixture
def readable_lab() -> Iterator[LabServer]:
    """A JupyterLab whose terminals can be read."""
    with running_lab(SETTINGS) as lab:
        yield lab


def test_a_terminal_opens_in_the_kernel_s_container(page: Page, readable_lab: LabServer) -> None:
    lab = readable_lab
    with container_environment(lab, "terminal-env") as name:
        open_container_notebook(page, lab, name)
        kernels = page.get_by_role("region", name="Kernels Section").get_by_role("listitem")
        kernels.filter(has_text=name).get_by_role("button", name="Open a terminal in this container").click()
        page.locator(".jp-Terminal .xterm-helper-textarea").focus()
        screen = page.locator(".jp-Terminal .xterm-accessibility")
        expect(screen).to_contain_text("dlenv-")  # the prompt
        page.keyboard.type('echo "uid=$(id -u)" "host=$(hostname)" "here=$PWD"\n')
        (kernel,) = lab.api("GET", "kernels")["kernels"]
        about = docker_images.engine().inspect_container(kernel["native_id"])
        expect(screen).to_contain_text(f"uid={about['Config']['User'].split(':')[0]}")
        expect(screen).to_contain_text(f"host={about['Config']['Hostname']}")
        expect(screen).to_contain_text(f"here={lab.root}")
        page.keyboard.type("exit\n")
        expect(page.locator(".jp-Terminal")).to_have_count(0)
        page.goto("about:blank")


def test_a_refusal_says_why(page: Page, lab: LabServer) -> None:
    row = {"id": "5ab4c0de-0000-4000-8000-000000000000", "environment": "gone", "image": "lab/torch:1"}
    kernels = {"kernels": [{**row, "engine": "docker", "state": "RUNNING", "native_id": "c", "started_at": 1.0}]}
    page.route("**/dlenv/api/v1/kernels?*", lambda route: route.fulfill(json=kernels))
    page.goto(lab.page())
    page.get_by_role("tab", name="Deep learning environments").click()
    page.get_by_role("button", name="Open a terminal in this container").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("The terminal could not be opened")
    expect(dialog).to_contain_text("Nothing runs under the id 5ab4c0de-0000-4000-8000-000000000000.")
