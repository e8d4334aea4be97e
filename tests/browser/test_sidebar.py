"""What a person sees in JupyterLab, and what the buttons do."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest
from counter import COUNTER, expect_live
from labserver import LabServer
from playwright.sync_api import Locator, Page, Route, expect

KERNEL = "5ab4c0de-0000-4000-8000-000000000000"
PROGRESS = """
import os, sys, time
print("\\033[31mred\\033[0m alert", flush=True)
for step in range(10):
    print(f"\\rstep {step}/9", end="", flush=True)
while not os.path.exists("go"):
    time.sleep(0.05)
print()
sys.exit("no more data")
"""


@pytest.fixture
def sidebar(page: Page, lab: LabServer) -> Page:
    """JupyterLab with our sidebar open."""
    open_sidebar(page, lab)
    return page


def open_sidebar(page: Page, lab: LabServer) -> None:
    """Load JupyterLab and open our sidebar."""
    page.goto(lab.page())
    page.get_by_role("tab", name="Deep learning environments").click()


def section(page: Page, name: str) -> Locator:
    """Return one of the sidebar's sections."""
    return page.get_by_role("region", name=f"{name} Section")


def answer_with(status: int, data: object) -> Callable[[Route], None]:
    """Return what answers a request of the page in the server's place."""
    return lambda route: route.fulfill(status=status, body=json.dumps(data))


def row(page: Page, name: str) -> Locator:
    """Return the item of that name in any section."""
    return page.locator("#jupyter-dlenv-sidebar").get_by_role("listitem").filter(has_text=name)


def test_empty_sections_say_what_to_do_next(page: Page, lab: LabServer) -> None:
    for name in ("environments", "kernels", "jobs"):
        page.route(f"**/dlenv/api/v1/{name}?*", answer_with(200, {name: []}))
    open_sidebar(page, lab)
    expect(section(page, "Environments")).to_contain_text("jupyter dlenv env add NAME --image REF")
    expect(section(page, "Kernels")).to_contain_text("No kernel runs in a container.")
    expect(section(page, "Jobs")).to_contain_text("%dlrun train.py --gpus 1")


def test_an_environment_appears_while_the_sidebar_is_open(sidebar: Page, lab: LabServer) -> None:
    expect(section(sidebar, "Environments")).to_contain_text("No environments yet")
    lab.api("PUT", "environments/py-new", {"engine": "process"})
    expect(row(sidebar, "py-new")).to_contain_text("no container · process")
    lab.api("DELETE", "environments/py-new")
    expect(row(sidebar, "py-new")).to_have_count(0)


@pytest.fixture
def environment(lab: LabServer) -> Iterator[str]:
    lab.api("PUT", "environments/py-plain", {"engine": "process"})
    yield "py-plain"
    lab.api("DELETE", "environments/py-plain")


def test_an_environment_starts_a_notebook_and_its_kernel_can_be_stopped(sidebar: Page, environment: str) -> None:
    sidebar.get_by_role("button", name=f"Start a notebook with {environment}").click()
    expect(sidebar.get_by_role("button", name=f"{environment} (no container) | Idle")).to_be_visible()
    kernel = section(sidebar, "Kernels").get_by_role("listitem").filter(has_text=environment)
    expect(kernel).to_contain_text("running")
    kernel.get_by_role("button", name=f"Shut down the kernel of {environment}").click()
    expect(kernel).to_have_count(0)


def test_a_job_is_followed_and_stopped(sidebar: Page, lab: LabServer) -> None:
    job = lab.submit("count.py", COUNTER, name="count")
    expect(row(sidebar, "count")).to_contain_text("running")
    sidebar.get_by_role("button", name="Show the log of count").click()
    expect_live(sidebar.get_by_role("log"))
    row(sidebar, "count").get_by_role("button", name="Stop count").click()
    expect(row(sidebar, "count")).to_contain_text("cancelled")
    expect(sidebar.get_by_role("status").filter(has_text="cancelled")).to_be_visible()
    assert lab.api("GET", f"jobs/{job['id']}")["state"] == "CANCELLED"


def test_the_log_has_a_stop_button_of_its_own(sidebar: Page, lab: LabServer) -> None:
    lab.submit("count2.py", COUNTER, name="count-too")
    sidebar.get_by_role("button", name="Show the log of count-too").click()
    view = sidebar.locator(".jp-dlenv-LogView")
    expect_live(view.get_by_role("log"))
    view.get_by_role("button", name="Stop").click()
    expect(view.get_by_role("status")).to_contain_text("cancelled")
    expect(view.get_by_role("button", name="Stop")).to_have_count(0)


def test_a_progress_bar_is_one_line_and_a_failure_says_why(sidebar: Page, lab: LabServer) -> None:
    lab.submit("progress.py", PROGRESS, name="bar")
    sidebar.get_by_role("button", name="Show the log of bar").click()
    view = sidebar.locator(".jp-dlenv-LogView")
    expect(view.locator(".jp-dlenv-LogPane-open")).to_have_text("step 9/9")
    expect(view.locator(".jp-dlenv-ansi-red")).to_have_text("red")
    (lab.root / "go").touch()
    expect(view.get_by_role("status")).to_contain_text("failed")
    expect(view.locator(".jp-dlenv-mod-outcome")).to_contain_text("exit code 1")
    expect(view.locator(".jp-dlenv-LogPane-open")).to_be_hidden()
    expect(view.get_by_role("log")).to_contain_text("step 9/9")
    expect(view.get_by_role("log")).to_contain_text("no more data")


def test_a_million_lines_leave_few_rows_in_the_page(sidebar: Page, lab: LabServer) -> None:
    lab.submit("million.py", "for i in range(1_000_000): print('loss', i)", name="million")
    sidebar.get_by_role("button", name="Show the log of million").click()
    view = sidebar.locator(".jp-dlenv-LogView")
    expect(view.get_by_role("status")).to_contain_text("succeeded")
    expect(view.get_by_role("log")).to_contain_text("loss 999999")
    assert view.locator(".jp-dlenv-LogPane-row").count() < 200
    expect(view).to_contain_text("Only the end of the log is shown.")


def test_scrolling_up_ends_following(sidebar: Page, lab: LabServer) -> None:
    source = "for i in range(300): print('old', i)\n" + COUNTER
    lab.submit("scroll.py", source, name="scroll")
    sidebar.get_by_role("button", name="Show the log of scroll").click()
    view = sidebar.locator(".jp-dlenv-LogView")
    follow = view.get_by_role("button", name="Follow")
    expect_live(view.get_by_role("log"))
    expect(follow).to_have_attribute("aria-pressed", "true")
    view.get_by_role("log").hover()
    sidebar.mouse.wheel(0, -100_000)
    expect(follow).to_have_attribute("aria-pressed", "false")
    expect(view.get_by_role("log")).to_contain_text("old 0")
    expect(view.get_by_role("log")).not_to_contain_text("line")
    follow.click()
    expect(view.get_by_role("log")).to_contain_text("line")
    view.get_by_role("button", name="Stop").click()


def test_a_lost_connection_is_told_and_repaired(sidebar: Page, lab: LabServer) -> None:
    lab.submit("again.py", COUNTER, name="again")
    lab.submit("beside.py", "print('done')", name="beside")
    sidebar.get_by_role("button", name="Show the log of again").click()
    view = sidebar.get_by_role("tabpanel", name="again").locator(".jp-dlenv-LogView")
    expect_live(view.get_by_role("log"))
    # Not JupyterLab's Launcher: it is not opened where a log was there before the layout was restored.
    sidebar.get_by_role("button", name="Show the log of beside").click()
    expect(view).to_be_hidden()
    sidebar.context.set_offline(True)
    sidebar.get_by_role("tab", name="again").click()
    expect(view.get_by_role("status")).to_contain_text("connecting again")
    sidebar.context.set_offline(False)
    expect(view.get_by_role("status")).to_have_text("running")
    view.get_by_role("button", name="Stop").click()
    expect(view.get_by_role("status")).to_contain_text("cancelled")


def kernel_row(**changes: object) -> dict[str, object]:
    """Return a kernel as the server tells of one that was started a while ago."""
    about = {"id": KERNEL, "environment": "torch", "image": "lab/torch:1", "engine": "docker", "native_id": "c"}
    now = {"state": "RUNNING", "started_at": 1.0, "message": "", "last_lines": "", "ended_at": None, "gpus": []}
    return {**about, **now, **changes}


def test_a_start_tells_what_it_waits_for(page: Page, lab: LabServer) -> None:
    steps = [
        ("QUEUED", "", "waiting"),
        ("PULLING", "lab/torch:1: 3 of 7 layers, 1.2 GiB of 4.0 GiB", "pulling the image"),
        ("CREATING", "", "creating the container"),
        ("STARTING", "", "starting"),
        ("RUNNING", "", "running"),
    ]
    now = {"step": 0}

    def answer(route: Route) -> None:
        state, message, _words = steps[now["step"]]
        route.fulfill(json={"kernels": [kernel_row(state=state, message=message)]})

    page.route("**/dlenv/api/v1/kernels?*", answer)
    open_sidebar(page, lab)
    for step, (state, message, words) in enumerate(steps):
        now["step"] = step
        item = section(page, "Kernels").locator(f'[data-kernel-state="{state}"]')
        expect(item.locator(".jp-dlenv-State")).to_have_text(words)
        expect(item).to_contain_text(message)
        assert item.get_by_role("button", name="Open a terminal").count() == (state == "RUNNING")


def test_a_death_is_announced_once_and_explained_in_the_list(page: Page, lab: LabServer) -> None:
    rows = [kernel_row()]
    page.route("**/dlenv/api/v1/kernels?*", lambda route: route.fulfill(json={"kernels": rows}))
    open_sidebar(page, lab)
    item = section(page, "Kernels").get_by_role("listitem")
    expect(item).to_contain_text("running")
    why = "It used more memory than its limit of 8.0 GiB."
    rows[0] = kernel_row(state="FAILED", message=why, last_lines="loading\nepoch 3", ended_at=100.0)
    announcement = page.get_by_role("alert").filter(has_text=why)
    expect(announcement).to_be_visible()
    expect(item.locator(".jp-dlenv-State")).to_have_text("failed")
    expect(item).to_contain_text(why)
    expect(item.get_by_role("button", name="Shut down")).to_have_count(0)
    expect(item.locator("pre")).to_be_hidden()
    item.get_by_text("Last lines").click()
    expect(item.locator("pre")).to_have_text("loading\nepoch 3")
    with page.expect_response("**/dlenv/api/v1/kernels?*"), page.expect_response("**/dlenv/api/v1/jobs?*"):
        pass
    expect(item.locator("pre")).to_be_visible()  # the list was drawn again
    expect(announcement).to_have_count(1)
    open_sidebar(page, lab)
    expect(item).to_contain_text(why)
    expect(announcement).to_have_count(0)
    rows[0] = kernel_row(ended_at=200.0)
    expect(
        page.get_by_role("alert").filter(has_text="The kernel of torch ended and was started again.")
    ).to_be_visible()


def test_a_death_is_announced_while_the_sidebar_is_closed(page: Page, lab: LabServer) -> None:
    rows = [kernel_row(state="FAILED", message="Killed from outside.", ended_at=100.0)]
    page.route("**/dlenv/api/v1/kernels?*", lambda route: route.fulfill(json={"kernels": rows}))
    page.goto(lab.page())
    announcement = page.get_by_role("alert").filter(has_text="Killed from outside.")
    expect(announcement).to_be_visible()
    announcement.get_by_role("button", name="Show").click()
    expect(section(page, "Kernels")).to_contain_text("Killed from outside.")


def test_a_pool_says_how_many_are_ready_and_what_they_hold(page: Page, lab: LabServer) -> None:
    pool = {"size": 3, "ready": 2, "gpus": ["GPU-1a", "GPU-2b"], "message": ""}
    torch = {"name": "torch", "display_name": "", "engine": "docker", "image": "lab/torch:1", "gpus": "1", "pool": 3}
    page.route("**/dlenv/api/v1/environments?*", answer_with(200, {"environments": [{**torch, "pool_status": pool}]}))
    open_sidebar(page, lab)
    expect(section(page, "Environments")).to_contain_text("2 of 3 ready · holds GPU-1a, GPU-2b")


def test_a_server_that_fails_is_named(page: Page, lab: LabServer) -> None:
    refusal = {"error": "EngineUnavailable", "message": "Docker does not answer.", "hint": "systemctl start docker"}
    page.route("**/dlenv/api/v1/kernels?*", answer_with(503, refusal))
    open_sidebar(page, lab)
    alert = section(page, "Kernels").get_by_role("alert")
    expect(alert).to_contain_text("The kernels could not be listed. Docker does not answer.")
    expect(alert).to_contain_text("systemctl start docker")
    expect(section(page, "Environments").get_by_role("alert")).to_have_count(0)
