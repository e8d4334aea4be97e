"""Patterns of ``--plot``: regular expressions whose groups are metrics. Pure."""

from __future__ import annotations

import functools
import importlib
import itertools
import operator
import re
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from ..errors import InvalidRequest
from ..i18n import _

LONGEST_LINE = 2000
"""Longer lines are not searched for the usual metrics."""

SEARCHED = 500
"""How many characters of a line a pattern is searched in."""

_LONGEST_PATTERN = 500
_MOST_STEPS = 3e6
_SLOW_S = 0.25
_PARSER: Any = importlib.import_module("re._parser" if sys.version_info >= (3, 11) else "sre_parse")
_TOKEN = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(\?(?:P<\w+>|<?[=!]|:)?|\{\d*,?\d*\}|.", re.DOTALL)
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

    def __init__(self, pattern: str, clock: Callable[[], float] = time.thread_time) -> None:
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
        if self.dropped:
            return {}
        began = self._clock()
        match = self._regex.search(line[:SEARCHED])
        self.dropped = self._clock() - began > _SLOW_S
        if match is None or match.end() == SEARCHED < len(line):  # what it found may go on
            return {}
        return {name: text for name, group in self._names.items() if (text := match.group(group)) is not None}


def _compiled(pattern: str) -> re.Pattern[str]:
    if len(pattern) > _LONGEST_PATTERN:
        raise _wrong(pattern, _("it is longer than {n} characters").format(n=_LONGEST_PATTERN))
    try:
        regex = re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise _wrong(pattern, str(error)) from None
    try:
        if _steps(pattern) > _MOST_STEPS:
            raise _too_long()
    except ValueError as error:
        raise _wrong(pattern, str(error)) from None
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


# How much work a pattern can be ----------------------------------------------------------------------------------------
#
# ``re`` tries one way after another through a pattern and lets no other thread run meanwhile. So how many steps the
# worst line can cost is bounded before the pattern is ever used: from the pattern's end to its beginning, as a
# polynomial of the line's length. A repeat of characters that cannot be what follows it ends at one place only and costs
# its own length. Any other may end anywhere: what follows is tried from everywhere, which is an integral.

_Work = tuple[float, ...]
"""Coefficients of a polynomial of the line's length, the constant first."""

_ASCII = (1 << 128) - 1
_WIDE_SPACE, _WIDE_DIGIT, _WIDE_WORD, _WIDE_OTHER = (1 << bit for bit in range(128, 132))
_WIDE = _WIDE_SPACE | _WIDE_DIGIT | _WIDE_WORD | _WIDE_OTHER
_ALL = _ASCII | _WIDE
_UPPER = sum(1 << code for code in range(ord("A"), ord("Z") + 1))
_LOWER = _UPPER << 32
_WORDS = {
    "DIGIT": (r"\d", _WIDE_DIGIT),
    "SPACE": (r"\s", _WIDE_SPACE),
    "WORD": (r"\w", _WIDE_DIGIT | _WIDE_WORD),
}
_CATEGORIES = {
    name: wide | sum(1 << code for code in range(128) if re.match(word, chr(code)))
    for name, (word, wide) in _WORDS.items()
}


def _plus(*works: _Work) -> _Work:
    return tuple(map(sum, itertools.zip_longest(*works, fillvalue=0.0)))


def _times(work: _Work, factor: float) -> _Work:
    return tuple(factor * each for each in work)


def _product(work: _Work, times: _Work) -> _Work:
    return _plus(*((*(0.0,) * degree, *_times(times, each)) for degree, each in enumerate(work)))


def _greatest(works: Iterable[_Work]) -> _Work:
    return tuple(map(max, itertools.zip_longest(*works, fillvalue=0.0)))


def _from_everywhere(work: _Work, stride: int) -> _Work:
    """Return what it costs to do something at each ``stride``-th place of a line, each time up to the line's end."""
    integral = (0.0, *(each / (degree + 1) for degree, each in enumerate(work)))
    return _plus(work, _times(integral, 1 / stride))


def _at(work: _Work, length: int) -> float:
    return sum(each * float(length) ** degree for degree, each in enumerate(work))


@dataclass(frozen=True)
class _Rest:
    """A pattern from some place to its end.

    Attributes:
        first: The characters that it can begin with, a bit each; too many rather than too few.
        refusal: Most steps until it has failed at a place with none of those.
        failure: Most steps until it has failed at all.
        success: Most steps of the one attempt that does not fail.
        sure: It never fails.
        begin: The characters that its first places can be, as far as each is one character.
    """

    first: int = 0
    refusal: _Work = (0.0,)
    failure: _Work = (0.0,)
    success: _Work = (0.0,)
    sure: bool = False
    begin: tuple[int, ...] = ()

    def everywhere(self) -> _Work:
        """Return what it costs when it is tried at each place of a line and fails each time."""
        size = len(self.begin)
        fits = (all(a & b for a, b in zip(self.begin, self.begin[shift:])) for shift in range(1, size))  # noqa: B905
        stride = next((shift for shift, each in enumerate(fits, 1) if each), max(size, 1))
        return _plus(_product((1.0, 1.0), _plus((float(size),), self.refusal)), _from_everywhere(self.failure, stride))


_PLACES = ("LITERAL", "NOT_LITERAL", "ANY", "IN")
_LONGEST_BEGIN, _MOST_TIMES, _MOST_LOOKS = 8, 20, 5000
_MATCHED = _Rest(first=_ALL, sure=True)


class _Effort:
    """Bounds the work of a parsed pattern.

    Args:
        flags: Those of the whole pattern.
    """

    def __init__(self, flags: int) -> None:
        self._flags = flags
        self._looks = 0

    def of(self, parts: Iterable[Any], rest: _Rest) -> _Rest:
        """Return some parts of a pattern with what follows them.

        Raises:
            ValueError: It can take too long, or cannot be told.
        """
        for operation, argument in reversed(list(parts)):
            self._looks += 1
            rest = self._part(str(operation), argument, rest)
            if self._looks > _MOST_LOOKS or _at(_plus(rest.failure, rest.success, rest.refusal), SEARCHED) > _MOST_STEPS:
                raise _too_long()
        return rest

    def _part(self, operation: str, argument: Any, rest: _Rest) -> _Rest:
        if operation in _PLACES:
            return _one(self._characters(operation, argument), rest)
        if operation in ("MAX_REPEAT", "MIN_REPEAT"):
            return self._repeat(*argument, rest)
        if operation == "SUBPATTERN" and not (argument[1] or argument[2]):
            return self.of(argument[3], rest)
        if operation == "BRANCH":
            return _either(*(self.of(parts, rest) for parts in argument[1]))
        if operation == "AT":
            looked = _looked((1.0,), rest)
            return replace(looked, first=1 << ord("\n"), begin=()) if "_END" in str(argument) else looked
        if operation in ("ASSERT", "ASSERT_NOT"):
            inside = self.of(argument[1], _MATCHED)
            return _looked(_plus((1.0,), inside.failure, inside.success), rest)
        part = "(?i:...)" if operation == "SUBPATTERN" else operation
        raise ValueError(_("this kind of pattern is not supported: {part}").format(part=part))

    def _repeat(self, least: Any, most: Any, parts: Any, rest: _Rest) -> _Rest:
        least, most = int(least), int(most)
        operation, argument = parts[0] if len(parts) == 1 else (None, None)
        if str(operation) in _PLACES:
            return _run(self._characters(str(operation), argument), least, most, rest)
        if (least, most) == (0, 1):
            return _either(self.of(parts, rest), rest)
        if least != most or most > _MOST_TIMES:
            raise ValueError(_("a group that repeats can take endless time; only a fixed number such as {3} is allowed"))
        for _time in range(most):
            rest = self.of(parts, rest)
            self._looks += 1
        return rest

    def _characters(self, operation: str, argument: Any) -> int:
        """Return which characters one place of a pattern can be."""
        if operation == "ANY":
            return _ALL
        if operation == "LITERAL":
            return self._range(argument, argument)
        if operation == "NOT_LITERAL":
            return _ALL & ~(self._range(argument, argument) & _ASCII)
        found, negated = 0, False
        for kind, value in argument:
            if str(kind) == "NEGATE":
                negated = True
            elif str(kind) == "CATEGORY":
                found |= self._category(str(value))
            else:
                low, high = (value, value) if str(kind) == "LITERAL" else value
                found |= self._range(low, high) & (_ASCII if negated else _ALL)
        return _ALL & ~found if negated else found

    def _category(self, name: str) -> int:
        word = name.rpartition("_")[2]
        found = _CATEGORIES[word] & (_ASCII if self._flags & re.ASCII else _ALL)
        return _ALL & ~found if "_NOT_" in name else found

    def _range(self, low: int, high: int) -> int:
        """Return some characters; where case does not matter, what is as good as them, such as the Kelvin sign for k."""
        found = sum(1 << code for code in range(low, min(high, 127) + 1)) | (_WIDE if high > 127 else 0)
        if not self._flags & re.IGNORECASE:
            return found
        upper, lower = found & _UPPER, found & _LOWER
        cases = upper << 32 | lower >> 32 | (_WIDE_WORD if upper or lower else 0)
        return _ALL if high > 127 else found | cases


def _one(characters: int, rest: _Rest) -> _Rest:
    step = (1.0,)
    begin = (characters, *rest.begin)[:_LONGEST_BEGIN]
    return _Rest(characters, step, _plus(step, rest.failure), _plus(step, rest.success), begin=begin)


def _looked(work: _Work, rest: _Rest) -> _Rest:
    """Return what comes after a look at a place, which takes no character."""
    works = (_plus(work, each) for each in (rest.refusal, rest.failure, rest.success))
    return _Rest(rest.first, *works, begin=rest.begin)


def _run(characters: int, least: int, most: int, rest: _Rest) -> _Rest:
    """Return a repeat of one place of a pattern with what follows it."""
    step, length = (1.0,), (0.0, 1.0) if most > SEARCHED else (float(most),)
    begin = (characters,) * min(least, _LONGEST_BEGIN)
    first, refusal = (characters, step) if least else (characters | rest.first, _plus(step, rest.refusal))
    if rest.sure:
        sure = not least
        return _Rest(first, refusal, (float(least),), _plus(step, length, rest.success), sure, begin)
    if least == most:
        begin, failure = (*begin, *rest.begin)[:_LONGEST_BEGIN], _plus(length, rest.failure)
    elif not characters & rest.first:
        failure = _plus(step, _product(length, _plus(step, rest.refusal)), rest.failure)
    else:
        anywhere = [rest.everywhere(), *([_times(rest.failure, most - least + 1)] if most <= SEARCHED else [])]
        failure = _plus(step, length, min(anywhere, key=lambda work: _at(work, SEARCHED)))
    return _Rest(first, refusal, failure, _plus(failure, rest.success), begin=begin)


def _either(*ways: _Rest) -> _Rest:
    """Return a choice; where only one way can begin with a character, the others are refused at once."""
    first = functools.reduce(operator.or_, (way.first for way in ways))
    apart = sum(way.first for way in ways) == first
    refusal, sure = _plus(*(way.refusal for way in ways)), any(way.sure for way in ways)
    failures = [way.failure for way in ways]
    failed = _plus(refusal, _greatest(failures)) if apart else _plus(*failures)
    success = _plus(failed, _greatest([way.success for way in ways]))
    begin = tuple(functools.reduce(operator.or_, place) for place in zip(*(way.begin for way in ways)))  # noqa: B905
    return _Rest(first, refusal, (0.0,) if sure else failed, success, sure, begin)


def _too_long() -> ValueError:
    return ValueError(_("it can take endless time: too many parts such as .* can match what follows them"))


def _steps(pattern: str) -> float:
    """Return how many steps a search of one line can take at most.

    Raises:
        ValueError: Too many, or nobody can tell.
    """
    parsed = _PARSER.parse(pattern)
    effort = _Effort(parsed.state.flags)
    whole = effort.of(parsed, _MATCHED)
    return _at(_plus(whole.everywhere(), whole.success), SEARCHED)
