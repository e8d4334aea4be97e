"""What a terminal would show of a line: its text alone, or HTML that needs no style sheet.

Standard library only, Python 3.8 syntax.
"""

import html
import re
from typing import FrozenSet, Iterator, List, NamedTuple

from ..i18n import _

LINE_LIMIT = 2000
"""Characters of a line that are shown."""

# CSI sequences with parameters and final byte, strings (OSC, DCS and their like) to their end, other escapes, and
# control characters of both ranges. An unfinished sequence goes too.
_CONTROL = re.compile(
    r"(?:\x1b\[|\x9b)([0-?]*)[ -/]*([@-~]?)"
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?"
    r"|\x1b[ -/]*[0-~]?"
    r"|[\x00-\x08\x0a-\x1f\x7f-\x9f]"
)
_MARKS = {1: "bold", 2: "dim", 3: "italic", 4: "underline", 7: "inverse", 9: "strike"}
_ENDS = {22: {"bold", "dim"}, 23: {"italic"}, 24: {"underline"}, 27: {"inverse"}, 29: {"strike"}}
_CSS = {
    "bold": "font-weight:bold",
    "dim": "opacity:0.7",
    "italic": "font-style:italic",
    "underline": "text-decoration:underline",
    "strike": "text-decoration:line-through",
}
# Between light and dark, because nobody knows the page's background.
_BASIC = (
    *("#555b61", "#d1383d", "#1f8a3f", "#a87b00", "#2f76d0", "#a550a8", "#0f8a8f", "#8a8f94"),
    *("#6f767d", "#e5534b", "#2ea44f", "#c08a00", "#4a90e8", "#c268c4", "#1fa5aa", "#a4a9ae"),
)
_CUBE = (0, 95, 135, 175, 215, 255)
_LIGHT = 140
_BLACK, _WHITE = "#000000", "#ffffff"


class Style(NamedTuple):
    """How a run of characters looks; colours as ``#rrggbb``, empty for the page's own."""

    color: str = ""
    background: str = ""
    marks: FrozenSet[str] = frozenset()

    def css(self) -> str:
        """Return the style as inline CSS, empty for the page's own."""
        color, background = self.color, self.background
        if "inverse" in self.marks:
            color, background = background, color or _BASIC[0]
        if background and not color:
            color = ink(background)
        parts = [f"color:{color}"] * bool(color) + [f"background-color:{background}"] * bool(background)
        return ";".join(parts + [_CSS[mark] for mark in sorted(self.marks & _CSS.keys())])


class Span(NamedTuple):
    """A run of characters in one style."""

    text: str
    style: Style


def ink(background: str) -> str:
    """Return black or white, whichever can be read on a colour."""
    red, green, blue = (int(background[place : place + 2], 16) for place in (1, 3, 5))
    return _BLACK if 0.299 * red + 0.587 * green + 0.114 * blue > _LIGHT else _WHITE


def settled(line: str) -> str:
    """Return what follows the last carriage return of a line, not too much of it, and how much more there is."""
    shown = line.rstrip("\r").rpartition("\r")[2]
    more = len(shown) - LINE_LIMIT
    return shown if more <= 0 else shown[:LINE_LIMIT] + _("… ({count} more characters)").format(count=more)


def clean(line: str) -> str:
    """Return a line as a terminal would leave it: after the last carriage return, without control sequences."""
    return plain(settled(line))


def plain(line: str) -> str:
    """Return a settled line without control sequences."""
    return _CONTROL.sub("", line)


def spans(line: str) -> List[Span]:
    """Return a line as styled runs of text; what a page cannot show is dropped."""
    found, style, start = [], Style(), 0
    for match in _CONTROL.finditer(line):
        found.append(Span(line[start : match.start()], style))
        start = match.end()
        if match.group(2) == "m":
            style = _styled(style, match.group(1))
    found.append(Span(line[start:], style))
    return [span for span in found if span.text]


def html_line(line: str) -> str:
    """Return a settled line as HTML: escaped, colours as inline styles, everything else of a terminal's dropped."""
    return "".join(_html(span) for span in spans(line))


def _html(span: Span) -> str:
    text, css = html.escape(span.text), span.style.css()
    return f'<span style="{css}">{text}</span>' if css else text


def _styled(style: Style, parameters: str) -> Style:
    codes = iter(_codes(parameters))
    for code in codes:
        if code == 0:
            style = Style()
        elif code in (38, 48):
            color = _extended(codes)
            style = style._replace(color=color) if code == 38 else style._replace(background=color)
        elif code in _MARKS:
            style = style._replace(marks=style.marks | {_MARKS[code]})
        elif code in _ENDS:
            style = style._replace(marks=style.marks - _ENDS[code])
        else:
            style = _basic(style, code)
    return style


def _basic(style: Style, code: int) -> Style:
    for base, first in ((30, 0), (90, 8)):
        if base <= code < base + 8:
            return style._replace(color=_BASIC[code - base + first])
        if base + 10 <= code < base + 18:
            return style._replace(background=_BASIC[code - base - 10 + first])
    if code in (39, 49):
        return style._replace(color="") if code == 39 else style._replace(background="")
    return style


def _codes(parameters: str) -> List[int]:
    """Return the numbers of an SGR sequence, a colour in its form with colons as in the one without."""
    codes: List[int] = []
    for part in parameters.split(";"):
        numbers = [int(word[:4]) if word.isdigit() else 0 for word in part.split(":")]
        if numbers[0] in (38, 48):
            codes += [*numbers[:2], *numbers[-3:]] if len(numbers) > 3 else numbers
        else:
            codes.append(24 if numbers == [4, 0] else numbers[0])
    return codes


def _extended(codes: Iterator[int]) -> str:
    """Return the colour that the codes after 38 or 48 choose, and take them."""
    kind = next(codes, 0)
    if kind == 5:
        return _palette(min(next(codes, 0), 255))
    if kind == 2:
        return _hex(*(min(next(codes, 0), 255) for _part in range(3)))
    return ""


def _palette(number: int) -> str:
    if number < 16:
        return _BASIC[number]
    if number >= 232:
        return _hex(*[8 + 10 * (number - 232)] * 3)
    cube = number - 16
    return _hex(_CUBE[cube // 36], _CUBE[cube // 6 % 6], _CUBE[cube % 6])


def _hex(red: int, green: int, blue: int) -> str:
    return f"#{red:02x}{green:02x}{blue:02x}"
