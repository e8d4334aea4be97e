"""Metrics in a log: lines -> rows, rows -> a table. Pure.

What frameworks and people print is recognised by its words: a number behind ``loss:``, ``acc=`` and the like, in the
lines of rank 0. Patterns of ``--plot`` are looked for first, in the lines of all ranks.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from .plots import LONGEST_LINE, Plot

_NUMBER = r"[-+]?(?:(?:\d[\d_]*\.?\d*|\.\d+)(?:e[-+]?\d+)?|nan|inf(?:inity)?)"
_WORDS = (
    r"loss|acc(?:uracy)?|auc|f1|bleu|rouge|ppl|perplexity|mae|mse|rmse|err(?:or)?|precision|recall|iou|dice|reward|psnr"
    r"|ssim|wer|cer|score|lr|learning_rate|grad_norm"
)
_PAIR = re.compile(
    r"(?<![\w./@-])(?:(train|training|test|testing|val|valid|validation|eval|evaluation)[ _-]{1,2})?"
    r"([a-z_][\w./@-]{0,40})['\"]?(?: is)?[ ]{0,3}[:=][ ]{0,3}['\"]?(?:\[|tensor\(|np\.float\d\d\()?[ ]{0,3}"
    rf"({_NUMBER})(?:/(\d{{1,12}}))?(?![\w:/]|\.\w)",
    re.IGNORECASE,
)
_BARE = re.compile(rf"(?<![\w./@-])((?:{_WORDS})(?:@\d{{1,3}})?)[ ]{{1,6}}({_NUMBER})(?![\w:/%-]|\.\w)", re.IGNORECASE)
_METRIC = re.compile(rf"(?:^|[^a-z])(?:{_WORDS})(?:$|[^a-z])", re.IGNORECASE)
_PHASE = re.compile(r"\W{0,4}(?:\w{1,12}\W{1,3})?(test|val|valid|validation|eval|evaluation)(?![a-z_])", re.IGNORECASE)
_EPOCH = re.compile(r"\bepoch['\"]?[ ]{0,3}[:=#]?[ ]{0,3}\[?[ ]{0,3}(\d{1,9}(?:\.\d{1,9})?)", re.IGNORECASE)
_STEP = re.compile(
    r"\b(?:global_?step|step|iter(?:ation)?|batch(?:_idx?)?)['\"]?[ ]{0,3}[:=#]?[ ]{0,3}\[?[ ]{0,3}(\d{1,12})"
    r"(?![\w.]\w)",
    re.IGNORECASE,
)
_OF = re.compile(r"(?:^|[\[|])[ ]{0,6}(\d{1,12})/(\d{1,12})(?=[ \]])")
_PLACES = frozenset(
    "epoch epochs step steps global_step globalstep iter iteration batch batch_id batch_idx rank v_num".split()  # noqa: SIM905
)
_NO_METRICS = re.compile(
    r"eta|time|date|pid|port|host|node|seed|size|line|exit|code|version|world|gpu|cuda|mem|sec\b|total|num_|samples"
    r"|duration|elapsed|remaining",
    re.IGNORECASE,
)
_PHASES = {"training": "train", "testing": "test", "valid": "val", "validation": "val", "evaluation": "eval"}

_ANSI = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")
_RANKED = re.compile(rb"\[(?:node )?(\d{1,9})\] ")
_HAS_VALUE = re.compile(rb"[:=] {0,3}['\"\[]?[-+]?[\dnNiIt.]|(?:oss|cc|cc@\d|ccuracy) {1,6}[-+\d.nNiI]|poch")
_NEEDLES = (b"oss", b"poch", b"acc", b"Acc", b"tep")
_MOST_LINES = 200  # of one feed with one word; more would say nothing more in a plot
_COLD_LINES = 50  # where thousands of likely lines held nothing
_COLD_AFTER = 5000
_LONGEST_OPEN = 1 << 16


@dataclass(frozen=True)
class Row:
    """The metrics of one line.

    Attributes:
        step, epoch: Where the training stood, as far as the line or those before it say.
        values: Numbers by name, NaN and infinities included.
    """

    step: float | None = None
    epoch: float | None = None
    rank: int = 0
    values: Mapping[str, float] = field(default_factory=dict)


class MetricReader:
    """Finds metrics in a log that is fed piece by piece.

    Args:
        patterns: What ``--plot`` was given.

    Raises:
        InvalidRequest: A pattern cannot be used.
    """

    def __init__(self, patterns: Sequence[str] = ()) -> None:
        self._plots = tuple(Plot(pattern) for pattern in patterns)
        self._open = b""
        self._epoch: float | None = None
        self._barren = 0

    @property
    def dropped(self) -> tuple[str, ...]:
        """The patterns that were too slow to go on with."""
        return tuple(plot.pattern for plot in self._plots if plot.dropped)

    def feed(self, data: bytes) -> list[Row]:
        """Return the rows of the lines that these bytes finish."""
        whole, newline, rest = data.rpartition(b"\n")
        if not newline:
            self._open = (self._open + data)[-_LONGEST_OPEN:]
            return []
        text, self._open = self._open + whole + newline, rest[-_LONGEST_OPEN:]
        return [row for line in self._likely(text) for row in self._rows(line)]

    def _likely(self, text: bytes) -> Sequence[bytes]:
        """Return the lines that are worth a closer look."""
        plots = [plot.needle for plot in self._plots if not plot.dropped]
        most = _COLD_LINES if self._barren > _COLD_AFTER and not plots else _MOST_LINES
        return _lines_with(text, (*_NEEDLES, *plots), most)

    def _rows(self, line: bytes) -> list[Row]:
        ranked = _RANKED.match(line)
        text = shown(line[ranked.end() :] if ranked else line)
        rows = list(self._of_patterns(text, int(ranked.group(1)) if ranked else 0))
        if not rows and not ranked and _HAS_VALUE.search(line) and (row := self._row(text)):
            rows = [row]
        self._barren = 0 if rows else self._barren + 1
        return rows

    def _row(self, line: str) -> Row | None:
        epoch = _EPOCH.search(line)
        if epoch:
            self._epoch = float(epoch.group(1))
        values = _values(line)
        return Row(_step(line), self._epoch, 0, values) if values else None

    def _of_patterns(self, text: str, rank: int) -> Iterator[Row]:
        for plot in self._plots:
            found = {name: _number(words) for name, words in plot.find(text).items()}
            numbers = {name: number for name, number in found.items() if number is not None}
            step, epoch = numbers.pop("step", None), numbers.pop("epoch", None)
            self._epoch = self._epoch if epoch is None else epoch
            if numbers:
                yield Row(step, self._epoch, rank, numbers)


def shown(line: bytes) -> str:
    """Return what a terminal shows of a line, without colours."""
    text = line[-4 * LONGEST_LINE :].rstrip(b"\r").rpartition(b"\r")[2].rpartition(b"\x08")[2]
    return _ANSI.sub("", text.decode("utf-8", "replace"))


def _lines_with(text: bytes, needles: Sequence[bytes], most: int) -> list[bytes]:
    """Return lines that hold one of the needles, each once and in order: all of them, or so many evenly spread.

    The other lines are never looked at, and an empty needle is in every line.
    """
    spans: dict[int, int] = {}
    for needle in needles:
        places = list(itertools.islice(_places(text, needle), most + 1))
        if len(places) > most:
            evenly = (text.find(needle, len(text) * part // most) for part in range(most))
            places = [*(_line_at(text, at) for at in evenly if at >= 0), _line_at(text, text.rfind(needle, 0, -1))]
        spans.update(places)
    return [text[begin : spans[begin]] for begin in sorted(spans)]


def _places(text: bytes, needle: bytes) -> Iterator[tuple[int, int]]:
    """Yield where lines with a needle begin and end."""
    at = text.find(needle)
    while 0 <= at < len(text):
        begin, end = _line_at(text, at)
        yield begin, end
        at = text.find(needle, end + 1)


def _line_at(text: bytes, at: int) -> tuple[int, int]:
    end = text.find(b"\n", at)
    return text.rfind(b"\n", 0, at) + 1, len(text) if end < 0 else end


def _values(line: str) -> dict[str, float]:
    if len(line) > LONGEST_LINE:
        return {}
    placed = bool(_STEP.search(line) or _EPOCH.search(line))
    found: dict[str, float] = {}
    for phase, name, number, whole in _PAIR.findall(line):
        if (_METRIC.search(name) or placed) and name.lower() not in _PLACES and not _NO_METRICS.search(name):
            value = _number(number)
            if value is not None and not (whole and not _METRIC.search(name)):
                found[_named(phase, name)] = value / int(whole) if whole and int(whole) else value
    for name, number in _BARE.findall(line):
        value = _number(number)
        if value is not None:
            found.setdefault(name.lower(), value)
    if not any(_METRIC.search(name) for name in found) and not placed:
        return {}
    return _in_phase(line, found)


def _named(phase: str, name: str) -> str:
    plain = name.strip("_./-").lower()
    return f"{_PHASES.get(phase.lower(), phase.lower())}_{plain}" if phase else plain


def _in_phase(line: str, values: dict[str, float]) -> dict[str, float]:
    """Return the values with the phase in their names, where the line is about a test or a validation."""
    phase = _PHASE.match(line)
    if phase is None:
        return values
    word = _PHASES.get(phase.group(1).lower(), phase.group(1).lower())
    return {name if name.startswith(("val", "test", "eval")) else f"{word}_{name}": values[name] for name in values}


def _step(line: str) -> float | None:
    match = _STEP.search(line) or _OF.search(line)
    return float(match.group(1)) if match else None


def _number(text: str) -> float | None:
    try:
        return float(text.strip(" ,;'\"%"))
    except ValueError:
        return None
