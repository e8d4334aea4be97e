"""JupyterLab's debugger with a kernel in a container: it stops at a breakpoint, shows where and what, and goes on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from containers import container_environment, open_container_notebook
from labserver import LabServer
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.docker
SOURCE = "def area(width):\n    height = width + 1\n    return width * height\n\nprint('area', area(6))"
STOPPED_LINE = 3


@pytest.fixture
def environment(lab: LabServer) -> Iterator[str]:
    """An environment whose kernels run in containers of a bare image."""
    with container_environment(lab, "debug-env") as name:
        yield name


def test_a_breakpoint_stops_a_cell_in_a_container(page: Page, lab: LabServer, environment: str) -> None:
    open_container_notebook(page, lab, environment)
    page.locator(".jp-Notebook .cm-content").first.click()
    page.keyboard.insert_text(SOURCE)
    page.locator(".jp-DebuggerBugButton").click()
    variables = page.locator(".jp-DebuggerVariables")
    expect(variables).to_contain_text("variables")
    gutter = page.locator(".jp-Notebook .cm-breakpoint-gutter .cm-gutterElement")
    gutter.nth(STOPPED_LINE).click()  # the first one only keeps the gutter's width
    expect(gutter.nth(STOPPED_LINE).locator(".cm-breakpoint-icon")).to_be_visible()
    page.locator(".jp-Notebook .cm-content").first.click()
    page.keyboard.press("Control+Enter")
    stack = page.locator(".jp-DebuggerCallstack")
    expect(stack).to_contain_text("area")
    expect(page.locator(".jp-Notebook .jp-DebuggerEditor-highlight")).to_contain_text("return width * height")
    expect(variables.get_by_role("treeitem").filter(has_text="height")).to_contain_text("7")
    expect(variables.get_by_role("treeitem").filter(has_text="width")).to_contain_text("6")
    expect(page.locator(".jp-Cell-outputArea")).not_to_contain_text("area")
    page.get_by_role("button", name="Continue (F9)").click()
    expect(page.locator(".jp-Cell-outputArea")).to_contain_text("area 42")
    expect(stack).not_to_contain_text("area")
