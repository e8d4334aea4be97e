"""A job's metrics as lines, and the notice when it has ended."""

from __future__ import annotations

from labserver import LabServer
from playwright.sync_api import Page, expect

TRAINING = """
import os, sys, time
for step in range(40):
    print(f"step {step} loss: {1 / (step + 1):.4f} accuracy: {step / 40:.3f}", flush=True)
while not os.path.exists(sys.argv[1]):
    time.sleep(0.05)
sys.exit(int(sys.argv[2]))
"""


def open_sidebar(page: Page, lab: LabServer) -> None:
    """Load JupyterLab and open our sidebar, which makes the page ask for jobs."""
    page.goto(lab.page())
    page.get_by_role("tab", name="Deep learning environments").click()


def test_metrics_are_drawn_while_a_job_runs(page: Page, lab: LabServer) -> None:
    open_sidebar(page, lab)
    lab.submit("training.py", TRAINING, name="drawn", args=["go-drawn", "0"])
    page.get_by_role("button", name="Show the log of drawn").click()
    view = page.locator(".jp-dlenv-LogView")
    expect(view.get_by_role("status")).to_have_text("running")
    expect(view.locator(".jp-dlenv-MetricChart polyline")).to_have_count(2)
    expect(view.get_by_role("img", name="Metrics: loss, accuracy")).to_be_visible()
    expect(view.get_by_role("listitem").filter(has_text="accuracy")).to_have_text("accuracy 0.975")
    (lab.root / "go-drawn").touch()
    expect(view.get_by_role("status")).to_have_text("succeeded")
    expect(view.locator(".jp-dlenv-MetricChart polyline")).to_have_count(2)


def test_a_job_without_metrics_has_no_chart(page: Page, lab: LabServer) -> None:
    open_sidebar(page, lab)
    lab.submit("plain.py", "print('nothing to draw')", name="undrawn")
    page.get_by_role("button", name="Show the log of undrawn").click()
    view = page.locator(".jp-dlenv-LogView")
    expect(view.get_by_role("log")).to_contain_text("nothing to draw")
    expect(view.get_by_role("status")).to_have_text("succeeded")
    expect(view.locator(".jp-dlenv-MetricChart")).to_have_count(0)


def test_the_end_of_a_job_is_announced_with_the_way_to_its_log(page: Page, lab: LabServer) -> None:
    open_sidebar(page, lab)
    lab.submit("training.py", TRAINING, name="announced", args=["go-announced", "3"])
    expect(page.get_by_role("button", name="Stop announced")).to_be_visible()
    page.get_by_role("tab", name="File Browser").click()  # nothing of ours is in sight any more
    (lab.root / "go-announced").touch()
    notice = page.get_by_role("alert").filter(has_text="announced: failed after")
    expect(notice).to_contain_text("exit code 3")
    notice.get_by_role("button", name="Show log").click()
    expect(page.locator(".jp-dlenv-LogView").get_by_role("log")).to_contain_text("step 39 loss")


def test_a_job_in_sight_is_not_announced(page: Page, lab: LabServer) -> None:
    open_sidebar(page, lab)
    lab.submit("training.py", TRAINING, name="seen", args=["go-seen", "0"])
    lab.submit("training.py", TRAINING, name="unseen", args=["go-unseen", "0"])
    page.get_by_role("button", name="Show the log of seen", exact=True).click()
    expect(page.locator(".jp-dlenv-LogView").get_by_role("status")).to_have_text("running")
    (lab.root / "go-seen").touch()
    expect(page.locator(".jp-dlenv-LogView").get_by_role("status")).to_have_text("succeeded")
    expect(page.get_by_role("button", name="Stop seen", exact=True)).to_have_count(0)
    (lab.root / "go-unseen").touch()
    expect(page.get_by_role("alert").filter(has_text="unseen: succeeded")).to_be_visible()
    expect(page.get_by_role("alert").filter(has_text="seen: ")).to_have_count(1)
