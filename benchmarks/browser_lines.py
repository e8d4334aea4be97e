"""A million lines to the log that a browser shows: whether the page stays responsive while they arrive."""

from __future__ import annotations

import json
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .samples import Figure, Samples
from .server import Server, running_server
from .world import World

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

REPEAT = 3
GOAL_MS = 200
LINES = 1_000_000
_SCRIPT = "lines_when_asked.py"
_MIME = "application/vnd.jupyter-dlenv.job+json"
_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"]
_PATIENCE_MS = 300_000
_SETTLE_S = 3
_OBSERVE = """
window.longTasks = [];
new PerformanceObserver(list => list.getEntries().forEach(entry => window.longTasks.push(entry.duration)))
  .observe({ type: 'longtask', buffered: false });
"""


def measure(world: World, repeat: int | None) -> list[Figure]:
    """Return the longest task of the page in each run, nothing where there is no browser."""
    executable = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if executable is None:
        print(f"browser-lines is left out: none of {', '.join(_BROWSERS)} is installed")
        return []
    with running_server(world.folder, "jupyterlab") as server, _browser(executable) as browser:
        rows = [shown(server, browser, world) for _turn in range(repeat or REPEAT)]
    longest = Samples("longest task", [row["longest_ms"] for row in rows])
    figure = Figure(
        "browser-lines",
        f"{LINES:,} lines to a log in a notebook's output: the page's longest task meanwhile",
        "ms",
        longest,
        GOAL_MS,
        parts=(
            Samples("all tasks over 50 ms", [row["total_ms"] for row in rows]),
            Samples("until the last line is shown", [row["shown_ms"] for row in rows]),
        ),
        notes={"browser": rows[0]["browser"]},
    )
    return [figure]


def shown(server: Server, browser: Browser, world: World) -> Mapping[str, Any]:
    """Let a job write its lines while a page shows them, and return what the page's tasks were."""
    name = secrets.token_hex(4)
    request = {"script": _SCRIPT, "args": [f"go-{name}"], "image": world.image}
    job_id = server.submit(request)
    (world.folder / f"{name}.ipynb").write_text(json.dumps(_notebook(job_id)), encoding="utf-8")
    token = server.headers["Authorization"].partition(" ")[2]
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    try:
        page.set_default_timeout(_PATIENCE_MS)
        page.add_init_script(_OBSERVE)
        page.goto(f"http://{server.address}/lab/tree/{name}.ipynb?reset&token={token}")
        page.locator('.jp-dlenv-State[data-job-state="RUNNING"]').wait_for()
        time.sleep(_SETTLE_S)  # JupyterLab goes on loading for a while
        page.evaluate("window.longTasks.length = 0")
        begin = time.perf_counter()
        (world.folder / f"go-{name}").touch()
        return {**_result(page, begin), "browser": browser.version}
    finally:
        page.close()


def _result(page: Page, begin: float) -> dict[str, float]:
    page.locator('.jp-dlenv-State[data-job-state="SUCCEEDED"]').wait_for()
    page.locator(".jp-dlenv-LogPane-row", has_text=f"{LINES - 1:7d} x").wait_for()
    shown_ms = 1000 * (time.perf_counter() - begin)
    tasks: list[float] = page.evaluate("window.longTasks")
    return {"longest_ms": max(tasks, default=0), "total_ms": sum(tasks), "shown_ms": shown_ms}


def _notebook(job_id: str) -> dict[str, Any]:
    data = {_MIME: {"job_id": job_id, "cursor": "", "state": "RUNNING", "name": _SCRIPT}, "text/plain": ""}
    output = {"output_type": "display_data", "data": data, "metadata": {}}
    cell = {
        "cell_type": "code",
        "id": "one",
        "execution_count": None,
        "metadata": {},
        "source": "",
        "outputs": [output],
    }
    return {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [cell]}


@contextmanager
def _browser(executable: str) -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=_FLAGS)
        yield browser
        browser.close()
