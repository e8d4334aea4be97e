"""What our outputs look like in a notebook, and what their buttons do."""

from __future__ import annotations

import json
import uuid

from counter import COUNTER, expect_live
from labserver import LabServer
from playwright.sync_api import Locator, Page, expect

JOB_TYPE = "application/vnd.jupyter-dlenv.job+json"
SWITCH_TYPE = "application/vnd.jupyter-dlenv.environment+json"


def write_notebook(lab: LabServer, name: str, source: str, *outputs: dict[str, object]) -> None:
    """Write a notebook with one cell, whose outputs are MIME bundles."""
    results = [{"output_type": "display_data", "data": data, "metadata": {}} for data in outputs]
    cell = {
        "cell_type": "code",
        "id": "one",
        "execution_count": None,
        "metadata": {},
        "source": source,
        "outputs": results,
    }
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = {"nbformat": 4, "nbformat_minor": 5, "metadata": {"kernelspec": kernel}, "cells": [cell]}
    (lab.root / name).write_text(json.dumps(notebook), encoding="utf-8")


def open_notebook(page: Page, lab: LabServer, name: str) -> Locator:
    """Open a notebook and return its cell's outputs once its kernel is there."""
    page.goto(lab.page(name))
    expect(page.get_by_role("button", name="Python 3 (ipykernel) | Idle")).to_be_visible()
    return page.locator(".jp-Cell-outputArea")


def run_cell(page: Page) -> None:
    """Run the cell. JupyterLab drops what it is asked to run in the moment in which a kernel gets connected."""
    for _ in range(5):
        page.locator(".jp-Notebook .cm-content").first.click()
        page.keyboard.press("Control+Enter")
        try:
            expect(page.locator(".jp-InputPrompt").first).not_to_have_text("[ ]:", timeout=3000)
            return
        except AssertionError:
            continue


def job_output(job_id: str) -> dict[str, object]:
    return {
        JOB_TYPE: {"job_id": job_id, "cursor": "", "state": "RUNNING", "name": "train"},
        "text/plain": "train: running",
    }


def test_a_saved_output_goes_on_living(page: Page, lab: LabServer) -> None:
    job = lab.submit("live.py", COUNTER, name="train")
    write_notebook(lab, "live.ipynb", "", job_output(job["id"]))
    output = open_notebook(page, lab, "live.ipynb")
    expect(output.get_by_role("status")).to_have_text("running")
    expect_live(output.get_by_role("log"))
    output.get_by_role("button", name="Open in a tab").click()
    expect(page.get_by_role("tab", name="train")).to_be_visible()
    page.get_by_role("tab", name="live.ipynb").click()
    output.get_by_role("button", name="Stop").click()
    expect(output.get_by_role("status")).to_have_text("cancelled")


def test_an_unknown_job_leaves_the_notebook_readable(page: Page, lab: LabServer) -> None:
    outputs = [job_output(str(uuid.uuid4())), job_output("../../api"), {"text/plain": "still here"}]
    write_notebook(lab, "old.ipynb", "1 + 1", *outputs)
    output = open_notebook(page, lab, "old.ipynb")
    expect(output.get_by_role("status")).to_have_text("lost")
    expect(output).to_contain_text("This server has no log of the job any more")
    expect(output).to_contain_text("This output names no job.")
    expect(output).to_contain_text("still here")
    expect(output.get_by_role("button", name="Stop")).to_have_count(0)
    expect(output.get_by_role("log")).to_have_count(0)


def test_a_run_is_stopped_from_its_output_while_the_kernel_is_busy(page: Page, lab: LabServer) -> None:
    (lab.root / "endless.py").write_text(COUNTER, encoding="utf-8")
    write_notebook(lab, "run.ipynb", "%load_ext jupyter_dlenv\n%dlrun endless.py --engine process")
    output = open_notebook(page, lab, "run.ipynb")
    run_cell(page)
    expect_live(output.get_by_role("log"))
    busy = page.locator('.jp-Notebook-ExecutionIndicator[data-status="busy"]')
    expect(busy).to_be_visible()
    output.get_by_role("button", name="Stop").click()
    expect(output.get_by_role("status")).to_have_text("cancelled")
    expect(busy).to_have_count(0)


def test_a_notebook_switches_to_an_environment(page: Page, lab: LabServer) -> None:
    write_notebook(lab, "switch.ipynb", "", {SWITCH_TYPE: {"name": "py-switch"}, "text/plain": "Choose it."})
    output = open_notebook(page, lab, "switch.ipynb")
    lab.api("PUT", "environments/py-switch", {"engine": "process"})
    output.get_by_role("button", name="Use py-switch in this notebook").click()
    expect(page.locator(".jp-Toolbar-kernelName")).to_have_text("py-switch (no container)")
    expect(page.get_by_role("button", name="py-switch (no container) | Idle")).to_be_visible()
    lab.api("DELETE", "environments/py-switch")
