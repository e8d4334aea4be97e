"""What a terminal shows of a line with carriage returns or backspaces. Pure: imported when the first of them comes."""

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List, Tuple

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
    last = 0
    for match in _CELL.finditer(text):
        char = match.group(1)
        columns = char_columns(char) if char >= "\u0300" else len(char)
        if columns:
            last = len(found)
            found += [match.group()] + [""] * (columns - 1)
        elif found:
            found[last] += match.group()
    return found


def typed(text: str) -> "Tuple[List[str], int]":
    """Return what a text puts into each column where backspaces go one back, and the column after it."""
    shown: List[str] = []
    column = 0
    for number, part in enumerate(text.split("\b")):
        column = max(0, column - bool(number))
        new = cells(part) if part else []
        if new:
            end = column + len(new)
            if shown[column : column + 1] == [""]:
                shown[column - 1] = " "  # the left half of a wide character whose right half is covered
            if shown[end : end + 1] == [""]:
                shown[end] = " "
            shown[column:end] = new
            column = end
    return shown, column


def without_backspaces(text: bytes) -> bytes:
    """Return an unfinished text that shows the same with less: what its backspaces covered is dropped."""
    head, _, last = text.decode("utf-8", "surrogateescape").rpartition("\b")
    shown, column = typed(head + "\b")
    # One backspace stays, at the begin where it does nothing: a line that had some is collapsed at its end.
    begin = "\b\x1b[K" if _ERASE.search(head) else "\b"
    squeezed = begin + _ERASE.sub("", "".join(shown)) + "\b" * (len(shown) - column)
    return (squeezed + last).encode("utf-8", "surrogateescape")


def collapse(line: bytes) -> bytes:
    """Return what a terminal shows at last for a line that goes back: later text lies over earlier text."""
    text = line.decode("utf-8", "surrogateescape")
    plain = "\x1b" not in text and max(text, default="") < "\u0300"
    shown: List[str] = []
    for segment in reversed(text.split("\r")):
        segment = segment.rstrip("\b")  # progress bars go back to the start in both ways, one after the other
        if "\b" in segment:
            columns, _ = typed(segment)
        else:
            columns = list(segment) if plain else cells(segment)
        below = columns[len(shown) :]
        if below:
            below[0] = below[0] or " "  # the right half of a wide character whose left half is covered
            shown += below
        if not plain and _ERASE.search(segment):
            break
    return _ERASE.sub("", "".join(shown)).rstrip(" ").encode("utf-8", "surrogateescape")
