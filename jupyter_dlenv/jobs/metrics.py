"""Metrics in a log: lines -> rows, rows -> a table. Pure.

What frameworks and people print is recognised by its words: a number behind ``loss:``, ``acc=`` and the like, in the
lines of rank 0. Patterns of ``--plot`` are looked for first, in the lines of all ranks.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ..errors import InvalidRequest
from ..i18n import _
from .plots import LONGEST_LINE, Plot

MOST_PATTERNS = 32
"""Each is searched in each line."""

_NUMBER = (
    r"[-+]?(?:(?:[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?(?!\d|,\d)|\d[\d_]*(?:\.\d*)?|\.\d+)(?:e[-+]?\d+)?"
    r"|nan|inf(?:inity)?)"
)
_WORDS = (
    r"loss|acc(?:uracy)?|auc|f1|bleu|rouge|ppl|perplexity|mae|r?mse|err(?:or)?(?!_?(?:code|line))|precision|recall|m?iou"
    r"|dice|reward|psnr|ssim|wer|cer|score|lr|learning_rate|grad_norm"
)
_ENDS = r"(?:ss|c[cy]|uc|f1|eu|[gcas]e|or|rr|pl|ty|on|ll|ou|rd|nr|im|er|re|lr|te|rm|@\d|\d\d)"
_VALUE = re.compile(
    r"(?:([:=])[ ]{0,3}['\"]?(?:\[|tensor\(|np\.float\d\d\()?[ ]{0,3}"
    rf"|(?<={_ENDS})[ ]{{1,6}})"
    rf"({_NUMBER})(?:/(\d{{1,12}}))?(?![\w:/]|\.\w)"
)
_WORD = re.compile(rf"(?:{_WORDS})(?:@\d{{1,3}})?")
_METRIC = re.compile(rf"(?:^|[^a-z])(?:{_WORDS})(?:$|[^a-z])")
_PHASES = {
    **{name: name for name in ("train", "test", "val", "eval")},
    **{"training": "train", "testing": "test", "valid": "val", "validation": "val", "evaluation": "eval"},
}
_PHASED = re.compile(rf"({'|'.join(_PHASES)})[_-]{{1,2}}([a-z_].*)")
_OF_PHASE = re.compile(r"\W{0,4}(?:\w{1,12}\W{1,3})?(test|val|valid|validation|eval|evaluation)(?![a-z_])")
_EPOCH = re.compile(r"\bepoch['\"]?[ ]{0,3}[:=#]?[ ]{0,3}\[?[ ]{0,3}(\d{1,9}(?:\.\d{1,9})?)")
_STEP = re.compile(
    r"\b(?<!\bs/)(?<!\bms/)(?:global_?step|step|iter(?:ation)?|batch(?:_idx?)?)['\"]?[ ]{0,3}[:=#]?[ ]{0,3}"
    r"\[?[ ]{0,3}(\d{1,12})(?!\w|\.\d)"
)
_OF = re.compile(r"(?:^|[\[|])[ ]{0,6}(\d{1,12})/[ ]{0,6}(\d{1,12})(?=[ \]])")
_PLACES = frozenset(
    "epoch epochs step steps global_step globalstep iter iteration batch batch_id batch_idx rank v_num".split()  # noqa: SIM905
)
_NO_METRICS = re.compile(
    r"(?<![a-z])(?:eta|[a-z]*time(?:s|r|out|stamp)?|(?:up)?dates?|pid|ports?|hosts?|hostname|localhost|nodes?|seeds?"
    r"|[a-z]*sizes?|lines?|lineno|exit|(?:exit)?codes?|version|world|gpus?|cuda|mem|[a-z]*memory|secs?|totals?|num"
    r"|samples?|duration|elapsed|remaining)(?![a-z])"
)
_LONGEST_NAME = 41
_MOST_VALUES = 100  # of a line
_NAME_CHARS = "abcdefghijklmnopqrstuvwxyz0123456789_./@-"

_ANSI = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")
_STROKES = re.compile(r"\x08+|[^\x08]+")
_RANKED = re.compile(rb"\[(\d{1,9}|node \d{1,9})\] ")
_NAMED = re.compile(rb"\[((?:worker|ps|server|trainer) \d{1,6}|scheduler|rendezvous)\] ")  # as launchers call them
_NEEDLES = b"oss acc auc f1 bleu ouge ppl perp mae mse err recis recal iou dice ewar psnr ssim wer cer core".split()
"""Parts of the words that are metrics by themselves, even alone on a line."""
_FOLLOWED = re.compile(rb"[\w./@-]{0,40}(?:[ \t'\":=\[(]|is|tensor|np\.float\d\d|\x1b\[[\d;]{0,20}m){1,20}[-+]?[.\dni]")
_PAIRED = re.compile(rb"[:=](?:[ '\"\[]|\x1b\[[\d;]{0,20}m){0,5}[-+]?[.\dnit]")

_ALL_LINES = 500_000
_ALL_PLOT_LINES = 2_000_000
_WINDOW_BYTES = 1 << 16
_LINES_IN_WINDOW = 12
_LONGEST_OPEN = 1 << 16


@dataclass(frozen=True, slots=True)
class Row:
    """The metrics of one line.

    Attributes:
        step, epoch: Where the training stood, as far as the line or those before it say.
        rank: Whose line it is: a number, or a name such as ``worker 1``.
        values: Numbers by name, NaN and infinities included.
        at: Where in the log it was found, in bytes; any number that grows where that is not known.
    """

    step: float | None = None
    epoch: float | None = None
    rank: int | str = 0
    values: Mapping[str, float] = field(default_factory=dict)
    at: int = field(default=0, compare=False)


class MetricReader:
    """Finds metrics in a log that is fed piece by piece; how it is cut into pieces makes no difference.

    Args:
        patterns: What ``--plot`` was given.
        ranked: Whether lines may begin with the rank that wrote them; with a single process a ``[3] `` is its own.
        named: Whether they may begin with a role's name.

    Raises:
        InvalidRequest: A pattern cannot be used.
    """

    def __init__(self, patterns: Sequence[str] = (), *, ranked: bool = True, named: bool = True) -> None:
        if len(patterns) > MOST_PATTERNS:
            raise InvalidRequest(
                _("--plot was given {count} times, and {most} is the limit.").format(
                    count=len(patterns), most=MOST_PATTERNS
                ),
                hint=_("One pattern can have several groups: --plot '(?P<kl>[0-9.]+) (?P<reward>[-0-9.]+)'"),
            )
        self._plots = tuple(Plot(pattern) for pattern in patterns)
        self._marks = (*(_RANKED,) * ranked, *(_NAMED,) * named)
        self._needles = (
            *(_Needle(word, _ALL_LINES, follows=_FOLLOWED) for word in _NEEDLES),
            _Needle(b"tep", _ALL_LINES, beside=_PAIRED),
            _Needle(b"poch", _ALL_LINES),
        )
        self._plot_needles = tuple(_Needle(plot.needle, _ALL_PLOT_LINES) for plot in self._plots)
        self._open, self._fed = b"", 0
        self._epoch: float | None = None

    @property
    def dropped(self) -> tuple[str, ...]:
        """The patterns that were too slow to go on with."""
        return tuple(plot.pattern for plot in self._plots if plot.dropped)

    @property
    def names(self) -> tuple[str, ...]:
        """The metrics that the patterns name."""
        return tuple(name for plot in self._plots for name in plot.names)

    def feed(self, data: bytes) -> list[Row]:
        """Return the rows of the lines that these bytes finish."""
        begin, self._fed = self._fed - len(self._open), self._fed + len(data)
        whole, newline, rest = data.rpartition(b"\n")
        if not newline:
            self._open = (self._open + data)[-_LONGEST_OPEN:]
            return []
        text, self._open = self._open + whole + newline, rest[-_LONGEST_OPEN:]
        return [row for at, line in self._likely(text, begin) for row in self._rows(line, at)]

    def _likely(self, text: bytes, begin: int) -> Iterator[tuple[int, bytes]]:
        """Yield the lines that are worth a closer look, and where in the log they begin."""
        lower = text.lower()
        spans: dict[int, int] = {}
        for needle in self._needles:
            spans.update(needle.lines(lower, begin))
        for needle, plot in zip(self._plot_needles, self._plots, strict=True):
            if not plot.dropped:
                spans.update(needle.lines(text, begin))
        for at in sorted(spans):
            yield begin + at, text[at : spans[at]]

    def _rows(self, line: bytes, at: int) -> list[Row]:
        marked = next((found for mark in self._marks if (found := mark.match(line))), None)
        rank = _rank(marked.group(1)) if marked else 0
        text = shown(line[marked.end() :] if marked else line)
        rows = list(self._of_patterns(text, rank, at))
        if not rows and not marked and (row := self._row(text.lower(), at)):
            rows = [row]
        return rows

    def _row(self, line: str, at: int) -> Row | None:
        epoch = _EPOCH.search(line) if "epoch" in line else None
        if epoch:
            self._epoch = float(epoch.group(1))
        step = _STEP.search(line) if "step" in line or "iter" in line or "batch" in line else None
        values = _values(line, placed=bool(epoch or step))
        if not values:
            return None
        return Row(float(step.group(1)) if step else _turn(line), self._epoch, 0, values, at)

    def _of_patterns(self, text: str, rank: int | str, at: int) -> Iterator[Row]:
        for plot in self._plots:
            found = {name: _number(words) for name, words in plot.find(text).items()}
            numbers = {name: number for name, number in found.items() if number is not None}
            step, epoch = numbers.pop("step", None), numbers.pop("epoch", None)
            self._epoch = self._epoch if epoch is None else epoch
            if numbers:
                yield Row(step, self._epoch, rank, numbers, at)


class _Needle:
    """Finds the lines with a word: all of them up to a number that few logs reach, of others so many in each window.

    It depends on nothing but the log, so that all who read it find the same.

    Args:
        follows: What must begin with the word.
        beside: What else must be in its line.
    """

    def __init__(
        self,
        needle: bytes,
        all_lines: int,
        follows: re.Pattern[bytes] | None = None,
        beside: re.Pattern[bytes] | None = None,
    ) -> None:
        self._needle = needle
        self._left = all_lines
        self._follows, self._beside = follows, beside
        self._window, self._in_window = -1, 0

    def lines(self, text: bytes, begin: int) -> dict[int, int]:
        """Return where in a text such lines begin and end; an empty needle is in every line.

        Args:
            begin: Where in the log the text begins.
        """
        found: dict[int, int] = {}
        at = text.find(self._needle)
        while 0 <= at < len(text):
            if self._follows and not self._follows.match(text, at):
                at = text.find(self._needle, at + 1)
                continue
            first, end = text.rfind(b"\n", 0, at) + 1, text.find(b"\n", at)
            window = (begin + first) // _WINDOW_BYTES
            if not self._beside or self._beside.search(text, first, end):
                if self._takes(window):
                    found[first] = end
                else:
                    end = max(end, (window + 1) * _WINDOW_BYTES - begin - 1)
            at = text.find(self._needle, end + 1)
        return found

    def _takes(self, window: int) -> bool:
        if self._left > 0:
            self._left -= 1
            return True
        self._in_window = self._in_window + 1 if window == self._window else 1
        self._window = window
        return self._in_window <= _LINES_IN_WINDOW


def shown(line: bytes) -> str:
    """Return what a terminal shows of a line, without colours."""
    text = line[-4 * LONGEST_LINE :].rstrip(b"\r\x08").rpartition(b"\r")[2].decode("utf-8", "replace")
    plain = _ANSI.sub("", text) if "\x1b" in text else text
    return _written_over(plain) if "\x08" in plain else plain


def _written_over(text: str) -> str:
    """Return a text whose backspaces have moved back, so that what follows lies over what was there."""
    cells: list[str] = []
    at = 0
    for strokes in _STROKES.findall(text):
        if strokes[0] == "\x08":
            at = max(0, at - len(strokes))
        else:
            cells[at : at + len(strokes)] = strokes
            at += len(strokes)
    return "".join(cells)


def _rank(mark: bytes) -> int | str:
    return int(mark) if mark.isdigit() else mark.decode()


def _values(line: str, *, placed: bool) -> dict[str, float]:
    """Return the metrics of a line in small letters: those that are known, behind a step or an epoch others too."""
    found: dict[str, float] = {}
    for match in _VALUE.finditer(line) if len(line) <= LONGEST_LINE else ():
        sign, digits, whole = match.groups()
        begin, end = _name_before(line, match.start())
        name = line[begin:end]
        if not sign:
            if not whole and _WORD.fullmatch(name) and line[match.end() : match.end() + 1] not in ("%", "-", "?"):
                found.setdefault(_named(line, begin, name), float(digits.replace(",", "")))
        elif name and (is_known(name) or (placed and not whole and _may_be_one(name))):
            found[_named(line, begin, name)] = float(digits.replace(",", "")) / (int(whole or 1) or 1)
        if len(found) >= _MOST_VALUES:
            break
    return _in_phase(line, found) if found else found


def _name_before(line: str, end: int) -> tuple[int, int]:
    """Return where the name begins and ends that stands before a sign or a number; both are equal where none does."""
    end = len(line[:end].rstrip(" "))
    if line.endswith(" is", 0, end):
        end -= 3
    if line.endswith(("'", '"'), 0, end):
        end -= 1
    begin = _word_begin(line, end)
    first = line[begin : begin + 1]
    return (begin, end) if end - begin <= _LONGEST_NAME and ("a" <= first <= "z" or first == "_") else (end, end)


def _word_begin(line: str, end: int) -> int:
    least = max(0, end - _LONGEST_NAME - 1)
    begin = least + len(line[least:end].rstrip(_NAME_CHARS))
    while begin > least and (line[begin - 1].isalnum() or line[begin - 1] in _NAME_CHARS):  # of other alphabets
        begin -= 1
    return begin


@functools.lru_cache(maxsize=4096)
def is_known(name: str) -> bool:
    """True for the name of a metric that needs neither step nor epoch to be seen as one."""
    return bool(_METRIC.search(name))


@functools.lru_cache(maxsize=4096)
def _may_be_one(name: str) -> bool:
    return name not in _PLACES and not _NO_METRICS.search(name)


def _named(line: str, begin: int, name: str) -> str:
    """Return what a metric is called whose name begins there, with the phase of the training that the line tells."""
    phased = _PHASED.fullmatch(name)
    if phased:
        return f"{_PHASES[phased.group(1)]}_{phased.group(2).strip('_./-')}"
    before = len(line[:begin].rstrip(" "))
    phase = _PHASES.get(line[_word_begin(line, before) : before]) if 0 < begin - before < 3 else None
    plain = name.strip("_./-")
    return f"{phase}_{plain}" if phase else plain


def _in_phase(line: str, values: dict[str, float]) -> dict[str, float]:
    """Return the values with the phase in their names, where the line is about a test or a validation."""
    phase = _OF_PHASE.match(line)
    if phase is None:
        return values
    word = _PHASES[phase.group(1)]
    return {name if name.startswith(tuple(_PHASES)) else f"{word}_{name}": values[name] for name in values}


def _turn(line: str) -> float | None:
    """Return the first part of ``10/500``, rather of one in brackets or bars than of one that begins the line."""
    found = [match for match in _OF.finditer(line) if int(match.group(1)) <= int(match.group(2))] if "/" in line else []
    best = min(found, key=lambda match: match.start() == 0, default=None)
    return float(best.group(1)) if best else None


def _number(text: str) -> float | None:
    plain = text.strip(" ,;'\"%")
    if "," in plain and re.fullmatch(_NUMBER, plain, re.IGNORECASE):
        plain = plain.replace(",", "")
    try:
        return float(plain)
    except ValueError:
        return None
