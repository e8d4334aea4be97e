"""What a terminal shows of a line with carriage returns. Pure: imported when the first of them comes."""

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List

_CELL = re.compile("(?:\x1b\\[[0-?]*[ -/]*[@-~])*([^\x1b]|\x1b(?!\\[)|$)")
_ERASE = re.compile("\x1b\\[[0-2]?[JK]")


def char_columns(char: str) -> int:
    """Return how many columns of a terminal a character takes."""
    import unicodedata  # costs a library load that plain ASCII output never needs

    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def cells(text: str) -> "List[str]":
    """Return what a text puts into each column: a character with the escape sequences and marks that go with it."""
    found: List[str] = []
    for match in _CELL.finditer(text):
        char = match.group(1)
        columns = char_columns(char) if char >= "\u0300" else len(char)
        if columns:
            found += [match.group()] + [""] * (columns - 1)
        elif found:
            found[-1] += match.group()
    return found


def collapse(line: bytes) -> bytes:
    """Return what a terminal shows at last for a line with carriage returns: later text lies over earlier text."""
    text = line.decode("utf-8", "surrogateescape")
    plain = "\x1b" not in text and max(text, default="") < "\u0300"
    shown: List[str] = []
    for segment in reversed(text.split("\r")):
        below = (list(segment) if plain else cells(segment))[len(shown) :]
        if below:
            below[0] = below[0] or " "  # the right half of a wide character whose left half is covered
            shown += below
        if not plain and _ERASE.search(segment):
            break
    return _ERASE.sub("", "".join(shown)).rstrip(" ").encode("utf-8", "surrogateescape")
