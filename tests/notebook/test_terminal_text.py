"""Lines that were meant for a terminal, as text and as HTML."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from jupyter_dlenv.notebook.terminal_text import LINE_LIMIT, clean, html_line, plain, settled

CASES = json.loads((Path(__file__).parent / "terminal.json").read_text(encoding="utf-8"))


class Reader(HTMLParser):
    """Collects the tags and the text of a piece of HTML."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize(("line", "text"), CASES)
def test_text_and_html_say_the_same(line: str, text: str) -> None:
    """The lab extension's test reads the same cases."""
    assert plain(line) == text
    page = Reader(html_line(line))
    assert page.text == text
    assert all(tag == "span" and set(attributes) == {"style"} for tag, attributes in page.tags)


@pytest.mark.parametrize(
    ("line", "styles"),
    [
        ("\x1b[31mx", ["color:#d1383d"]),
        ("\x1b[91mx", ["color:#e5534b"]),
        (
            "\x1b[1;3;4;9mx",
            ["font-weight:bold;font-style:italic;text-decoration:line-through;text-decoration:underline"],
        ),
        ("\x1b[38;5;196mx", ["color:#ff0000"]),
        ("\x1b[38;5;244mx", ["color:#808080"]),
        ("\x1b[38;5;3mx\x1b[39my", ["color:#a87b00"]),
        ("\x1b[38;2;1;2;255mx", ["color:#0102ff"]),
        ("\x1b[38:2::1:2:255mx", ["color:#0102ff"]),
        ("\x1b[38;2;999;0;0;1mx", ["color:#ff0000;font-weight:bold"]),
        ("\x1b[48;2;255;255;255mx", ["color:#000000;background-color:#ffffff"]),
        ("\x1b[42mx\x1b[49my", ["color:#ffffff;background-color:#1f8a3f"]),
        ("\x1b[7mx\x1b[27my", ["color:#ffffff;background-color:#555b61"]),
        ("\x1b[31;7mx", ["color:#ffffff;background-color:#d1383d"]),
        ("\x1b[1;31mx\x1b[22my\x1b[0mz", ["color:#d1383d;font-weight:bold", "color:#d1383d"]),
        ("\x1b[4:3mx\x1b[4:0my", ["text-decoration:underline"]),
    ],
)
def test_colours_need_no_style_sheet(line: str, styles: list[str]) -> None:
    found = [attributes["style"] or "" for _tag, attributes in Reader(html_line(line)).tags]
    assert [set(style.split(";")) for style in found] == [set(style.split(";")) for style in styles]


def test_nothing_of_a_line_becomes_markup() -> None:
    evil = '<script>alert(1)</script>"\'><img src=x onerror=y> &lt; \x1b[31;"onclick=zm'
    page = html_line(evil)
    assert "<" not in re.sub(r'<span style="[a-z0-9:;#-]*">|</span>', "", page)
    assert '"' not in re.sub(r'<span style="[a-z0-9:;#-]*">', "", page)


@pytest.mark.parametrize(
    ("line", "shown"), [("10%\r50%\r100%", "100%"), ("50%\r", "50%"), ("\r", ""), ("no return", "no return")]
)
def test_a_carriage_return_begins_anew(line: str, shown: str) -> None:
    assert settled(line) == shown


def test_a_long_line_is_cut_with_a_remark() -> None:
    shown = clean("x" * 1_000_000)
    assert shown == "x" * LINE_LIMIT + "… (998000 more characters)"
    assert clean("x" * LINE_LIMIT) == "x" * LINE_LIMIT
    assert html_line(settled("<" * 1_000_000)).count("&lt;") == LINE_LIMIT
