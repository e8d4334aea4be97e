"""Patterns of ``--plot``: regular expressions whose groups are metrics. Pure."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ..errors import InvalidRequest
from ..i18n import _

LONGEST_LINE = 2000
"""Longer lines are not searched, so that no pattern takes long on them."""

_LONGEST_PATTERN = 500
_SLOW_S = 0.25
_TOKEN = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(\?(?:P<\w+>|<?[=!]|:)?|\{\d*,?\d*\}|.", re.DOTALL)
_ENDLESS = re.compile(r"[*+]|\{\d*,\}")
_QUANTIFIER = re.compile(r"[*+?]|\{\d*,?\d*\}")
_LAST_WORD = re.compile(r"([A-Za-z_][\w.@/-]*)[^\w]*\Z")
_FLAGS = re.compile(r"\(\?[aiLmsux-]")


class Plot:
    """One pattern, ready to search lines.

    Args:
        pattern: What the user typed: its named groups are metrics, ``step`` and ``epoch`` say where; a single group
            without a name is called after the word before it.

    Raises:
        InvalidRequest: It is no regular expression, has no group to take values from, or could take endless time.
    """

    def __init__(self, pattern: str, clock: Callable[[], float] = time.perf_counter) -> None:
        self.pattern = pattern
        self.dropped = False
        self._clock = clock
        self._regex = _compiled(pattern)
        self._names = _names(pattern, self._regex)
        self.needle = _needle(pattern)

    def find(self, line: str) -> dict[str, str]:
        """Return the texts of the groups in a line, none where it does not match.

        A pattern that was once slow is dropped: it would hold up everybody who follows the job.
        """
        if self.dropped or len(line) > LONGEST_LINE:
            return {}
        began = self._clock()
        match = self._regex.search(line)
        self.dropped = self._clock() - began > _SLOW_S
        if match is None:
            return {}
        return {name: text for name, group in self._names.items() if (text := match.group(group)) is not None}


def _compiled(pattern: str) -> re.Pattern[str]:
    if len(pattern) > _LONGEST_PATTERN:
        raise _wrong(pattern, _("it is longer than {n} characters").format(n=_LONGEST_PATTERN))
    try:
        regex = re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise _wrong(pattern, str(error)) from None
    if any(_nested(pattern)):
        raise _wrong(pattern, _("a repeated group that itself repeats or chooses can take endless time"))
    return regex


def _names(pattern: str, regex: re.Pattern[str]) -> dict[str, int]:
    if regex.groupindex:
        return dict(regex.groupindex)
    if regex.groups != 1:
        raise _wrong(pattern, _("it needs named groups, such as (?P<loss>[0-9.]+)"))
    word = _LAST_WORD.search(pattern[: pattern.index("(")].replace("\\", ""))
    return {word.group(1) if word else "value": 1}


def _wrong(pattern: str, problem: str) -> InvalidRequest:
    message = _("--plot {pattern!r} cannot be used: {problem}.").format(pattern=pattern[:80], problem=problem)
    return InvalidRequest(message, hint=_("Example: --plot 'reward: (?P<reward>[-0-9.]+)'"))


@dataclass
class _Group:
    """What a group of a pattern holds that makes its repetition dangerous."""

    risky: bool = False


def _nested(pattern: str) -> Iterator[bool]:
    """Yield whether each repeated group repeats or chooses something inside."""
    tokens = _TOKEN.findall(pattern)
    open_groups = [_Group()]
    closed = _Group()
    for index, token in enumerate(tokens):
        if token.startswith("("):
            open_groups.append(_Group())
        elif token == ")" and len(open_groups) > 1:
            closed = open_groups.pop()
            open_groups[-1].risky |= closed.risky
        elif token == "|":
            open_groups[-1].risky = True
        elif _QUANTIFIER.fullmatch(token) and index:
            if tokens[index - 1] == ")" and (_ENDLESS.fullmatch(token) or token.startswith("{")):
                yield closed.risky
            if token != "?":
                open_groups[-1].risky = True


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
