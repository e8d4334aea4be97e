"""The end of a log, read: the last traceback, and the cause that its words are a sign of. Pure."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass

from .causes import LOG_CAUSES
from .facts import Cause, Facts, Found

_PREFIX = re.compile(
    r"^(?:\[(?:rank|default)\d{1,9}\]:(?: |(?=\[)|$)|\[\d{1,9}\] |\[\d{1,9}(?:,\d{1,9})?\]<std(?:out|err)>: ?)",
    re.MULTILINE,
)
"""Of torch's excepthook, of the merged log, of mpirun."""

_ANSI = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")
_TRACEBACK = re.compile(r"^(?:  [+] Exception Group )?Traceback \(most recent call last\):$")
_EXCEPTION = re.compile(
    r"^[A-Za-z_][\w.]{0,150}(?:Error|Exception|Exit|Interrupt|Failure|Timeout|Iteration|Warning)\b(?!\()"
)
_CHAINED = (
    "During handling of the above exception, another exception occurred:",
    "The above exception was the direct cause of the following exception:",
)
_MESSAGE_LINES = 60
_LINE = 2000
_READ = 1 << 16  # of the end, in characters
_LAST_LINES = 300
_RECENT_LINES = 60
_BLOCKS = 8


@dataclass(frozen=True)
class Reading:
    """What a text says of its process's end.

    Attributes:
        cause: None for an exception that the catalogue does not know.
        evidence: The line that says it.
    """

    cause: Cause | None
    found: Found
    evidence: str


def without_prefixes(text: str) -> str:
    """Return a text without the ranks that lines are marked with."""
    return _PREFIX.sub("", text)


def last_traceback(text: str) -> str:
    """Return the last Python traceback of a text, with the exceptions that led to it; empty when there is none."""
    lines = without_prefixes(text).replace("\r", "").split("\n")
    begins = [index for index, line in enumerate(lines) if _TRACEBACK.match(line)]
    if not begins:
        return ""
    return "\n".join(lines[_chain(lines, begins) : _end(lines, begins[-1])])


def _chain(lines: Sequence[str], begins: Sequence[int]) -> int:
    """Return where the first of the exceptions begins that led to the last one."""
    left = list(begins)
    begin = left.pop()
    while left and _is_chained(lines, begin):
        begin = left.pop()
    return begin


def _is_chained(lines: Sequence[str], begin: int) -> bool:
    before = [line for line in lines[max(0, begin - 3) : begin] if line.strip()]
    return bool(before) and before[-1].strip() in _CHAINED


def _end(lines: Sequence[str], begin: int) -> int:
    """Return where a traceback ends: after its frames and the message, which may have several lines."""
    index = begin + 1
    while index < len(lines) and lines[index].startswith(" "):
        index += 1
    limit = min(len(lines), index + _MESSAGE_LINES)
    while index < limit and lines[index].strip():
        index += 1
    return index


def read(facts: Facts, text: str, exit_code: int, *, sure: bool) -> Reading | None:
    """Return what the end of a text says, None when nothing; the newest traceback that is no mere consequence counts.

    Args:
        sure: Whether its process is known to have failed, so that an unknown exception counts however old it is.
    """
    lines = _last_lines(text)
    begins = [index for index, line in enumerate(lines) if _TRACEBACK.match(line)]
    if not begins:
        return _search(facts, "\n".join(lines[-_LAST_LINES:]), "", exit_code)
    end, found = len(lines), None
    for _turn in range(_BLOCKS):
        begin = _chain(lines, begins)
        reading = _of_block(facts, lines[begin:end], exit_code, recent=sure or len(lines) - end < _RECENT_LINES)
        found = found or reading
        if reading and not (reading.cause and reading.cause.consequence):
            return reading
        begins, end = [index for index in begins if index < begin], begin
        if not begins:
            break
    return found


def _of_block(facts: Facts, lines: Sequence[str], exit_code: int, recent: bool) -> Reading | None:
    """Return what a traceback says: by its messages, not by the code that its frames show."""
    words = [line for line in lines if not line.startswith(" ") and not _TRACEBACK.match(line)]
    reading = _search(facts, "\n".join(words), "\n".join(lines), exit_code)
    if reading or not recent:
        return reading
    exceptions = [line for line in words[:_LAST_LINES] if _EXCEPTION.match(line)]
    evidence = (exceptions or [line for line in words if line.strip()] or [""])[-1 if exceptions else 0]
    return Reading(None, Found({}, "\n".join(lines), exit_code), evidence.strip()) if evidence else None


def _search(facts: Facts, text: str, block: str, exit_code: int) -> Reading | None:
    for cause in LOG_CAUSES:
        for literal, sign in _signs(cause):
            match = sign.search(text) if literal in text else None
            if match is None:
                continue
            begin, end = text.rfind("\n", 0, match.start()) + 1, text.find("\n", match.end())
            line = text[begin : len(text) if end < 0 else end]
            found = Found(match.groupdict(), block or line, exit_code)
            if cause.when is None or cause.when(facts, found):
                return Reading(cause, found, line.strip())
    return None


@functools.cache
def _signs(cause: Cause) -> tuple[tuple[str, re.Pattern[str]], ...]:
    return tuple((literal_begin(sign), re.compile(sign, re.MULTILINE)) for sign in cause.signs)


def literal_begin(sign: str) -> str:
    """Return the plain text that every match of a sign begins with; looking for it first is much quicker."""
    match = re.match(r"(?:[\w ,:;</'\"-]|\\[.()\[\]])*", sign)
    plain = match.group() if match else ""
    rest = sign[len(plain) :]
    if rest[:1] in tuple("?*{"):
        plain = plain[:-2] if plain[-2:-1] == "\\" else plain[:-1]
    return "" if "|" in _outside_groups(sign) else plain.replace("\\", "")


def _outside_groups(sign: str) -> str:
    inner = re.compile(r"\\.|\[[^\]]*\]|\([^()]*\)")
    while (flat := inner.sub("", sign)) != sign:
        sign = flat
    return sign


def _last_lines(text: str) -> list[str]:
    """Return the last lines, each as a terminal shows it, without prefixes and colours, and none longer than a page."""
    lines = text[-4 * _READ :].split("\n")[-4 * _LAST_LINES :]
    shown = [_PREFIX.sub("", _ANSI.sub("", _shown(line)[:_LINE])) for line in lines]
    kept, size = [], 0
    for line in reversed(shown):
        size += len(line) + 1
        if size > _READ:
            break
        kept.append(line)
    return kept[::-1]


def _shown(line: str) -> str:
    return line.rstrip("\r").rpartition("\r")[2]
