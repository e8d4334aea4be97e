"""The sidebar for a user who set JupyterLab to Chinese, with no language pack installed."""

from __future__ import annotations

from labserver import running_lab
from playwright.sync_api import Page, expect


def test_the_sidebar_is_chinese_without_a_language_pack(page: Page) -> None:
    with running_lab({"@jupyterlab/translation-extension:plugin": {"locale": "zh_CN"}}) as lab:
        page.goto(lab.page())
        page.get_by_role("tab", name="深度学习环境").click()
        sidebar = page.locator("#jupyter-dlenv-sidebar")
        expect(sidebar).to_contain_text("还没有环境。请在终端中创建")
        expect(sidebar).to_contain_text("作业")
        page.goto("about:blank")
