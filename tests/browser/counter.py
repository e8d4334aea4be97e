"""A job that writes a line every tenth of a second, and what shows that its log is live."""

from __future__ import annotations

from playwright.sync_api import Locator, expect

COUNTER = """
import itertools, time
for number in itertools.count():
    print("line", number, flush=True)
    time.sleep(0.1)
"""


def expect_live(log: Locator) -> None:
    """Wait until the counter's log goes on: a line comes that was not there before."""
    expect(log).to_contain_text("line")
    newest = int(log.inner_text().split()[-1])
    expect(log).to_contain_text(f"line {newest + 10}")
