"""Patterns of ``--plot``: regular expressions whose groups are metrics.

Patterns come from people, and by ``%dlrun`` from code in containers. Python's own ``re`` can search one line for years
and lets no other thread run meanwhile, so they are searched by ``regex``, which gives up after a time.
"""

from __future__ import annotations

import importlib
import itertools
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import regex

from ..errors import InvalidRequest
from ..i18n import _

LONGEST_LINE = 2000
"""Longer lines are not searched."""

_LONGEST_PATTERN = 500
_MOST_PLACES = 20_000
_ENDLESS = 1 << 31
_PARSER: Any = importlib.import_module("re._parser" if sys.version_info >= (3, 11) else "sre_parse")
_PATIENCE_S = 0.02
_TOKEN = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(\?(?:P<\w+>|<?[=!]|:)?|\{\d*,?\d*\}|.", re.DOTALL)
_QUANTIFIER = re.compile(r"[*+?]|\{\d*,?\d*\}")
_LAST_WORD = re.compile(r"([A-Za-z_][\w.@/-]*)[^\w]*\Z")
_FLAGS = re.compile(r"\(\?[aiLmsux-]")


class Plot:
    """One pattern, ready to search lines.

    Args:
        pattern: What the user typed: its named groups are metrics, ``step`` and ``epoch`` say where; a single group
            without a name is called after the word before it.

    Attributes:
        dropped: Whether a search took too long; there are no more then.
        names: The metrics that it finds.

    Raises:
        InvalidRequest: It is no regular expression, or has no group to take values from.
    """

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.dropped = False
        self._regex = _compiled(pattern)
        self._names = _names(pattern, self._regex)
        self.names = tuple(name for name in self._names if name not in ("step", "epoch"))
        self.needle = _needle(pattern)

    def find(self, line: str) -> dict[str, str]:
        """Return the texts of the groups in a line, none where it does not match.

        A pattern that was once slow is dropped: it would hold up everybody who follows the job.
        """
        if self.dropped or len(line) > LONGEST_LINE:
            return {}
        try:
            match = self._regex.search(line, timeout=_PATIENCE_S)
        except TimeoutError:
            self.dropped = True
            return {}
        if match is None:
            return {}
        return {name: text for name, group in self._names.items() if (text := match.group(group)) is not None}


def _compiled(pattern: str) -> regex.Pattern[str]:
    if len(pattern) > _LONGEST_PATTERN:
        raise _wrong(pattern, _("it is longer than {n} characters").format(n=_LONGEST_PATTERN))
    try:
        re.compile(pattern)  # what people know; the other one knows more, such as fuzzy matching
        if _places(_PARSER.parse(pattern)) > _MOST_PLACES:
            raise _wrong(pattern, _("its repeats come to more than {n} characters").format(n=_MOST_PLACES))
        return regex.compile(pattern)
    except (re.error, regex.error, OverflowError, RecursionError) as error:
        raise _wrong(pattern, str(error)) from None


def _places(parsed: Any) -> int:
    """Return how long a parsed pattern is with its counted repeats written out, as ``regex`` does when it compiles."""
    total = 0
    for _operation, argument in parsed:
        parts = argument if isinstance(argument, (tuple, list)) else (argument,)
        below = sum(_places(each) for each in _parsed_in(parts))
        counts = [int(part) for part in parts[:2] if isinstance(part, int) and len(parts) == 3 and below]
        most = max((count for count in counts if count < _ENDLESS), default=1)
        total += max(most, 1) * max(below, 1)
    return total


def _parsed_in(parts: Iterable[Any]) -> Iterator[Any]:
    for part in parts:
        if type(part).__name__ == "SubPattern":
            yield part
        elif isinstance(part, (tuple, list)):
            yield from _parsed_in(part)


def _names(pattern: str, found: regex.Pattern[str]) -> dict[str, int]:
    if found.groupindex:
        return dict(found.groupindex)
    if found.groups != 1:
        raise _wrong(pattern, _("it needs named groups, such as (?P<loss>[0-9.]+)"))
    word = _LAST_WORD.search(pattern[: pattern.index("(")].replace("\\", ""))
    return {word.group(1) if word else "value": 1}


def _wrong(pattern: str, problem: str) -> InvalidRequest:
    message = _("--plot {pattern!r} cannot be used: {problem}.").format(pattern=pattern[:80], problem=problem)
    return InvalidRequest(message, hint=_("Example: --plot 'reward: (?P<reward>[-0-9.]+)'"))


def _needle(pattern: str) -> bytes:
    """Return the longest plain text that every match holds; empty where none is sure."""
    if "|" in pattern or _FLAGS.search(pattern):
        return b""
    runs, depth = [""], 0
    tokens = [*_TOKEN.findall(pattern), ""]
    for token, following in itertools.pairwise(tokens):
        depth += token.startswith("(") - (token == ")")
        plain = token if len(token) == 1 and token not in "^$.*+?()[]{}|\\" else ""
        plain = token[1] if len(token) == 2 and token[0] == "\\" and not token[1].isalnum() else plain
        if depth or not plain or _QUANTIFIER.fullmatch(following):
            runs.append("")
        else:
            runs[-1] += plain
    return max(runs, key=len).encode()
