"""The end of a log, read: the traceback that ended it, or the cause that its last words are a sign of. Pure."""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from .causes import CRASH_CAUSES, LOG_CAUSES
from .facts import Cause, Facts, Found

_PREFIX = re.compile(
    r"^(?:\[(?:rank|default)\d{1,9}\]:(?: |(?=\[)|$)|\[\d{1,9}\] |\[\d{1,9}(?:,\d{1,9})?\]<std(?:out|err)>: ?)",
    re.MULTILINE,
)
"""Of torch's excepthook, of the merged log, of mpirun."""

_ANSI = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")
_TRACEBACK = re.compile(r"^(?:  [+] Exception Group )?Traceback \(most recent call last\):$")
_BEHIND_A_BAR = re.compile(r"^(.{1,300}(?:\S|[\]|] {1,60}))(Traceback \(most recent call last\):)$", re.MULTILINE)
_EXCEPTION = re.compile(
    r"^[A-Za-z_][\w.]{0,150}(?:Error|Exception|Exit|Interrupt|Failure|Timeout|Iteration|Warning)\b(?!\()"
)
_NAMED = re.compile(r"^[^\W\d][\w.<>]{0,150}(?:\([\w.]{1,100}\))?(?::|$)")
_DURING = "During handling of the above exception, another exception occurred:"
_CHAINED = (_DURING, "The above exception was the direct cause of the following exception:")
_ASIDE = re.compile(
    r"^(?:Exception ignored (?:in|on|while)\b|Error in (?:atexit|sys)\b|Exception in (?:thread|callback) "
    r"|Task exception was never retrieved|--- Logging error ---)"
)
"""Stands before the traceback of an exception that does not end the process."""

_THREAD = "Exception in thread "
_MORE_FOLLOWS = re.compile(r":\s*$|NCCL error in: ")
_QUOTED = "(most recent call last):"
_OF_C = re.compile(r"^(?:Exception raised from |frame #\d)")
_NO_NEWS = re.compile(rf"\s|$|wandb: |frame #\d|\S{{1,100}} \[\d{{1,4}}\] NCCL (?:INFO|TRACE) |{_ASIDE.pattern}")
"""Begins lines that say nothing of how far the process went on: they are written when it ends."""

_WARNING = re.compile(
    r"\[?[IWD](?:\d{4})? |\d{4}-\d\d-\d\d[ T][\d:.,]{5,20}:? [IWD] "
    r"|wandb: |.{0,80}\b(?:WARNING|INFO|DEBUG)\b|.{0,300}\b\w{0,60}Warning: "
)
"""Begins lines that call themselves no error."""

_MESSAGE_LINES = 60
_SHOWN_LINES = 10  # behind a message, and shown with it where no more follow
_LINE = 2000
_READ = 1 << 16  # of the end, in characters
_LAST_LINES = 300
_RECENT_LINES = 30
_BLOCKS = 8
_PARSED = 64
_ABORTED, _CRASHED = 134, (132, 135, 136, 139)


@dataclass(frozen=True)
class Reading:
    """What a text says of its process's end.

    Attributes:
        cause: None for an exception that the catalogue does not know.
        evidence: The line that says it; empty for a traceback that is cut off.
        traceback: With the exceptions that led to it, empty where none says it.
    """

    cause: Cause | None
    found: Found
    evidence: str
    traceback: str = ""


@dataclass(frozen=True)
class _Raised:
    """One exception.

    Attributes:
        begin: The line where its traceback begins.
        end: The line after its message.
        words: The message, without the code that it may quote.
        during: Whether it was raised while the one before it was handled, and not from that one.
    """

    begin: int
    end: int
    words: Sequence[str]
    during: bool


@dataclass(frozen=True)
class _Block:
    """An exception with those that led to it, from the oldest to the last.

    Attributes:
        mark: What stands before it where it did not end the process.
    """

    raised: Sequence[_Raised]
    mark: str

    @property
    def begin(self) -> int:
        """The first line."""
        return self.raised[0].begin

    @property
    def end(self) -> int:
        """The line after the last one."""
        return self.raised[-1].end


def without_prefixes(text: str) -> str:
    """Return a text without the ranks that lines are marked with."""
    return _PREFIX.sub("", text)


def read(facts: Facts, text: str, exit_code: int, *, mixed: bool = False) -> Reading | None:
    """Return what the end of a text says, None when nothing; the newest traceback that is no mere consequence counts.

    Args:
        mixed: Whether other processes wrote into it too, which may have gone on for a while.
    """
    lines = _last_lines(text)
    blocks = list(islice(_blocks(lines), _PARSED))
    last_words = "\n".join(_last_words(lines, blocks))
    if exit_code in _CRASHED:
        return _search(facts, last_words, exit_code, CRASH_CAUSES)
    recent = list(_recent(lines, blocks, _LAST_LINES if mixed else _RECENT_LINES))
    readings = _of_blocks(facts, lines, (block for block in recent if not block.mark), exit_code)
    if readings and exit_code != _ABORTED:
        return _first(readings)
    said = _search(facts, last_words, exit_code)
    if exit_code == _ABORTED and readings:
        return _of_abort(said, readings)
    threads = (block for block in recent if block.mark.startswith(_THREAD))
    return said or _first(_of_blocks(facts, lines, threads, exit_code))


def _of_blocks(facts: Facts, lines: Sequence[str], blocks: Iterable[_Block], exit_code: int) -> list[Reading]:
    return [reading for block in islice(blocks, _BLOCKS) if (reading := _of_block(facts, lines, block, exit_code))]


def _first(readings: Sequence[Reading]) -> Reading | None:
    causes = [each for each in readings if not (each.cause and each.cause.consequence)]
    return next(iter(causes or readings), None)


def _of_abort(said: Reading | None, readings: Sequence[Reading]) -> Reading | None:
    """Return what says most: a library's last words, a known exception, that it aborted, an unknown exception."""
    known = [each for each in (said, *readings) if each and each.cause and each.cause.id != "aborted"]
    general = replace(said, traceback=readings[0].traceback) if said else None
    return _first(known) or general or _first(readings)


# Tracebacks -----------------------------------------------------------------------------------------------------------


def _blocks(lines: Sequence[str]) -> Iterator[_Block]:
    """Find the tracebacks of a text, the newest first."""
    begins = [index for index, line in enumerate(lines) if _TRACEBACK.match(line)]
    while begins:
        chain = [begins.pop()]
        while begins and _link(lines, chain[-1]):
            chain.append(begins.pop())
        yield _Block([_raised(lines, begin) for begin in reversed(chain)], _mark(lines, chain[-1]))


def _link(lines: Sequence[str], begin: int) -> str:
    """Return what says that a traceback follows from the one before it."""
    before = [line.strip() for line in lines[max(0, begin - 3) : begin] if line.strip()]
    return before[-1] if before and before[-1] in _CHAINED else ""


def _mark(lines: Sequence[str], begin: int) -> str:
    """Return what says that an exception did not end the process; asyncio shows an object between."""
    at = begin - 2 if begin > 1 and lines[begin - 1].startswith(("future: ", "handle: ")) else begin - 1
    return lines[at] if at >= 0 and _ASIDE.match(lines[at]) else ""


def _raised(lines: Sequence[str], begin: int) -> _Raised:
    start = begin + 1
    while start < len(lines) and lines[start].startswith(" "):
        start += 1
    during = _link(lines, begin) == _DURING
    if lines[begin].startswith(" "):  # an exception group, all of which is indented
        inside = (line.lstrip(" |+-") for line in lines[begin:start])
        return _Raised(begin, start, [line for line in inside if _EXCEPTION.match(line)], during)
    if start == len(lines) or _TRACEBACK.match(lines[start]):
        return _Raised(begin, start, (), during)
    words, end = _message(lines, _named(lines, start))
    return _Raised(begin, end, words, during)


def _named(lines: Sequence[str], start: int) -> int:
    """Return where an exception is named: other processes may have written between its frames."""
    for index in range(start, min(len(lines), start + _MESSAGE_LINES)):
        if _TRACEBACK.match(lines[index]):
            break
        if _NAMED.match(lines[index]):
            return index
    return start


def _message(lines: Sequence[str], start: int) -> tuple[list[str], int]:
    """Return the lines of a message without quoted frames, and where it ends: before what others write behind it."""
    words, end = list(lines[start : start + 1]), min(len(lines), start + 1)
    goes_on, quotes = bool(words and _MORE_FOLLOWS.search(words[0])), False
    for index in range(start + 1, min(len(lines), start + _MESSAGE_LINES)):
        line = lines[index]
        if not line.strip():
            if not _bridged(lines, index, goes_on and end == start + 1):
                break
            continue
        if line[0] in " \t":
            goes_on = goes_on and end > start + 1
            quotes = quotes or line.lstrip().startswith('File "')
            words += [] if quotes else [line]
        elif _TRACEBACK.match(line) or _ASIDE.match(line) or line in _CHAINED:
            break
        elif line.endswith(_QUOTED):
            quotes = True
        elif goes_on or (quotes and _NAMED.match(line)):
            words, quotes, goes_on = [*words, line], False, goes_on or bool(_MORE_FOLLOWS.search(line))
        elif not _OF_C.match(line):
            break
        end = index + 1
    return words, end


def _bridged(lines: Sequence[str], index: int, header: bool) -> bool:
    """Tell whether a message goes on behind an empty line: below its first line, or indented before and after."""
    around = lines[index - 1], *lines[index + 1 : index + 2]
    return header or (len(around) > 1 and all(line[:1].isspace() and line.strip() for line in around))


def _recent(lines: Sequence[str], blocks: Sequence[_Block], within: int) -> Iterator[_Block]:
    """Find the tracebacks behind which little was written: what is older was caught."""
    news, end = 0, len(lines)
    for block in blocks:
        news += sum(not _NO_NEWS.match(line) for line in lines[block.end : end])
        if news >= within:
            return
        yield block
        end = block.begin


def _of_block(facts: Facts, lines: Sequence[str], block: _Block, exit_code: int) -> Reading | None:
    """Return what the last exception says, and those that it was raised from.

    What was being handled then counts only where the last one is a mere consequence: mostly it was handled well.
    """
    parts = _parts(block.raised)
    readings = [_of_part(facts, lines, part, exit_code) for part in parts[-1:]]
    if readings[0] and readings[0].cause and readings[0].cause.consequence:
        readings += [_of_part(facts, lines, part, exit_code) for part in parts[-2::-1]]
    said = _first([each for each in readings if each and each.cause])
    said = said or _unknown(lines, parts[-1], exit_code)
    return replace(said, traceback=_in_full(lines, block)) if said else None


def _parts(raised: Sequence[_Raised]) -> list[list[_Raised]]:
    """Divide exceptions where one was raised while another was handled."""
    parts: list[list[_Raised]] = []
    for each in raised:
        if each.during or not parts:
            parts.append([])
        parts[-1].append(each)
    return parts


def _of_part(facts: Facts, lines: Sequence[str], part: Sequence[_Raised], exit_code: int) -> Reading | None:
    """Return what exceptions say that were raised from each other: by their messages, not by the code in frames."""
    begin = part[0].begin
    found = Found(
        {}, "\n".join(lines[begin : part[-1].end]), exit_code, "\n".join(lines[max(0, begin - _RECENT_LINES) : begin])
    )
    return _search(facts, "\n".join(word for each in part for word in each.words), exit_code, found=found)


def _unknown(lines: Sequence[str], part: Sequence[_Raised], exit_code: int) -> Reading | None:
    """Return an exception that the catalogue does not know; None for one that another one's lines stand between."""
    words = [word for word in part[-1].words if word.strip()]
    if not words and part[-1].end < len(lines):
        return None
    named = [word for word in words if _EXCEPTION.match(word)] or words[:1]
    return Reading(None, Found(exit_code=exit_code), "".join(named[-1:]).strip())


def _in_full(lines: Sequence[str], block: _Block) -> str:
    """Return a traceback, with what stands right behind its message where that is short: mostly a part of it."""
    end = block.end
    while end < len(lines) and lines[end].strip() and not (_TRACEBACK.match(lines[end]) or _ASIDE.match(lines[end])):
        end += 1
    return "\n".join(lines[block.begin : end if end - block.end <= _SHOWN_LINES else block.end])


# Signs ----------------------------------------------------------------------------------------------------------------


def _last_words(lines: Sequence[str], blocks: Sequence[_Block]) -> list[str]:
    """Return the last lines that belong to no traceback, without those that call themselves warnings."""
    inside = {index for block in blocks for index in range(block.begin, block.end)}
    kept: list[str] = []
    news = 0
    for line in (lines[index] for index in range(len(lines) - 1, -1, -1) if index not in inside):
        news += not _NO_NEWS.match(line)
        if news > _RECENT_LINES:
            break
        kept += [] if _WARNING.match(line) else [line]
    return kept[::-1]


def _search(
    facts: Facts, text: str, exit_code: int, causes: Collection[Cause] = LOG_CAUSES, found: Found | None = None
) -> Reading | None:
    for cause in causes:
        for literal, sign in _signs(cause):
            match = sign.search(text) if literal in text else None
            if match is None:
                continue
            begin, end = text.rfind("\n", 0, match.start()) + 1, text.find("\n", match.end())
            line = text[begin : len(text) if end < 0 else end]
            each = replace(found or Found(block=line, exit_code=exit_code), groups=match.groupdict())
            if cause.when is None or cause.when(facts, each):
                return Reading(cause, each, line.strip())
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
    shown = [part for line in lines for part in _BEHIND_A_BAR.sub(r"\1\n\2", _as_shown(line)).split("\n")]
    kept, size = [], 0
    for line in reversed(shown):
        size += len(line) + 1
        if size > _READ:
            break
        kept.append(line)
    return kept[::-1]


def _as_shown(line: str) -> str:
    return _PREFIX.sub("", _ANSI.sub("", line.rstrip("\r").rpartition("\r")[2][:_LINE]))
