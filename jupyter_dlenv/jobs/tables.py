"""Rows of metrics as a table for plots, and as the text of ``metrics.csv``. Pure.

The file has one line for each number (``epoch,step,rank,name,value``), so that it can be appended to whatever metrics
come later.
"""

from __future__ import annotations

import csv
import itertools
import math
import operator
from array import array
from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from .metrics import Row, is_known

HEADER = "epoch,step,rank,name,value\n"
"""First line of ``metrics.csv``."""

PLACES = ("epoch", "step", "rank")

MOST_NUMBERS = 200_000
"""Of one job; what is more is thinned."""

_MOST_KNOWN, _MOST_OTHERS = 40, 24
_MOST_RANKS = 1024
_MOST_SERIES = 10_000
_Place = tuple[float | None, float | None, int | str]


def csv_lines(rows: Iterable[Row]) -> str:
    """Return the lines that rows add to ``metrics.csv``, without :data:`HEADER`."""
    text = _Text()
    writer = csv.writer(text, lineterminator="\n")
    for row in rows:
        place = (_plain(row.epoch), _plain(row.step), row.rank)
        writer.writerows((*place, name, _plain(value)) for name, value in row.values.items())
    return "".join(text.pieces)


class _Text:
    """What :mod:`csv` writes to."""

    def __init__(self) -> None:
        self.pieces: list[str] = []

    def write(self, piece: str) -> None:
        self.pieces.append(piece)


def read_csv(text: str) -> Iterator[Row]:
    """Yield the rows of ``metrics.csv``; lines that cannot be read, such as a half-written last one, are left out."""
    place: _Place | None = None
    values: dict[str, float] = {}
    count = 0
    for here, name, value in _csv_numbers(text):
        if place is not None and (here != place or name in values):
            yield Row(place[1], place[0], place[2], values, count)
            values, count = {}, count + 1
        place = here
        values[name] = value
    if place is not None:
        yield Row(place[1], place[0], place[2], values, count)


def _csv_numbers(text: str) -> Iterator[tuple[_Place, str, float]]:
    whole = text[: text.rfind("\n") + 1].replace("\0", "")
    for cells in csv.reader(whole.split("\n")):
        try:
            epoch, step, rank, name, value = cells
            place = (float(epoch) if epoch else None, float(step) if step else None, _rank(rank))
            yield place, name, float(value)
        except ValueError:
            continue  # the header is one of them


def _rank(text: str) -> int | str:
    return text if text[:1].isalpha() else int(text)


def _plain(number: float | None) -> str:
    if number is None:
        return ""
    return str(int(number)) if math.isfinite(number) and number == int(number) and abs(number) < 1e15 else repr(number)


_Number = tuple[int, int, float, float, int, int, float]
"""In which row, where in the log, epoch, step, which rank, which metric, and the number itself."""


class Kept:
    """The numbers of one job in little memory: all that there is room for, else some evenly from the whole log.

    Metrics that come seldom are not thinned before those that come often, and the newest of each is always there.

    Args:
        rows: What to begin with.
        named: Metrics that always have a place; there is room for so many others.

    Attributes:
        left_out: Whether there were more metrics than that.
    """

    def __init__(self, rows: Iterable[Row] = (), named: Iterable[str] = ()) -> None:
        self.left_out = False
        self._room = {True: _MOST_KNOWN, False: _MOST_OTHERS}
        self._named = frozenset(named)
        self._names: dict[str, int] = {}
        self._ranks: dict[int | str, int] = {}
        self._columns: list[array[Any]] = [array(code) for code in "QQddIId"]
        self._windows: dict[tuple[int, int], int] = {}
        self._newest: dict[tuple[int, int], _Number] = {}  # where it is not in the columns
        self._window_bytes = self._rows = 0
        self.add(rows)

    @property
    def thinned(self) -> bool:
        """Whether there were more numbers than are kept."""
        return self._window_bytes > 0

    def add(self, rows: Iterable[Row]) -> None:
        """Keep what rows say, as far as there is room."""
        for row in rows:
            self._rows += 1
            epoch, step = (math.nan if place is None else place for place in (row.epoch, row.step))
            for name, value in row.values.items():
                if self._has_place(name, row.rank):
                    rank, metric = self._ranks[row.rank], self._names[name]
                    self._keep((self._rows, row.at, epoch, step, rank, metric, value))
                else:
                    self.left_out = True
            if len(self._columns[0]) > MOST_NUMBERS:
                self._thin(row.at)

    def _has_place(self, name: str, rank: int | str) -> bool:
        """Give a metric of a rank a place, if there is one left."""
        if name not in self._names:
            known = is_known(name)
            if name not in self._named and not self._room[known]:
                return False
            self._room[known] -= name not in self._named
            self._names[name] = len(self._names)
        if rank not in self._ranks and len(self._ranks) < _MOST_RANKS:
            self._ranks[rank] = len(self._ranks)
        key = (self._ranks.get(rank, -1), self._names[name])
        return key in self._windows or (rank in self._ranks and len(self._windows) < _MOST_SERIES)

    def _keep(self, number: _Number) -> None:
        """Put a number into the columns, or note it as the newest where its window of the log has one."""
        row, at, _epoch, _step, rank, metric, _value = number
        key = (rank, metric)
        window = at // self._window_bytes if self._window_bytes else row
        if self._window_bytes and self._windows.get(key) == window:
            self._newest[key] = number
            return
        self._windows[key] = window
        self._newest.pop(key, None)
        for column, cell in zip(self._columns, number, strict=True):
            column.append(cell)

    def _thin(self, end: int) -> None:
        """Make the windows larger and leave one number of each metric and rank in each."""
        while len(self._columns[0]) > MOST_NUMBERS // 2:
            self._window_bytes = max(2 * self._window_bytes, end // MOST_NUMBERS + 1)
            numbers = list(self._all())
            self._columns = [array(column.typecode) for column in self._columns]
            self._windows, self._newest = {}, {}
            for number in numbers:
                self._keep(number)

    def _all(self) -> Iterator[_Number]:
        """Yield all numbers, row by row."""
        rows, kept, begin = self._columns[0], zip(*self._columns, strict=True), 0
        for number in sorted(self._newest.values(), key=_row_of):
            end = bisect_right(rows, number[0])
            yield from itertools.islice(kept, end - begin)
            yield number
            begin = end
        yield from kept

    def rows(self) -> Iterator[Row]:
        """Yield all of it as rows."""
        names, ranks = list(self._names), list(self._ranks)
        for _row, numbers in itertools.groupby(self._all(), key=_row_of):
            whole = list(numbers)
            _row, at, epoch, step, rank, _metric, _value = whole[0]
            values = {names[number[5]]: number[6] for number in whole}
            yield Row(_known(step), _known(epoch), ranks[rank], values, at)

    def table(self, most: int = 1000) -> dict[str, Any]:
        """Return ``{"columns": [...], "rows": [...], "total": N}`` for JSON: None for nothing, NaN as text.

        There are at most so many rows: the first, the last, each column's extremes, others evenly.
        """
        ranks, found = list(self._ranks), dict[int, list[Any]]()
        total, wanted = self._chosen(most)
        for row, _at, epoch, step, rank, metric, value in self._all():
            if row in wanted:
                if row not in found:
                    place = (_cell(_known(epoch)), _cell(_known(step)), ranks[rank])
                    found[row] = [*place, *[None] * len(self._names)]
                found[row][len(PLACES) + metric] = _cell(value)
        return {"columns": [*PLACES, *self._names], "rows": list(found.values()), "total": total}

    def _chosen(self, most: int) -> tuple[int, Collection[int]]:
        """Return how many rows there are, and which of them go into a table."""
        rows = list(dict.fromkeys(map(_row_of, self._all())))
        if len(rows) <= most:
            return len(rows), set(rows)
        kept = dict.fromkeys([rows[0], rows[-1]][:most])
        for row in self._extremes():
            if len(kept) < most:
                kept[row] = None
        for index in range(left := most - len(kept)):
            kept[rows[index * len(rows) // left]] = None
        return len(rows), kept

    def _extremes(self) -> list[int]:
        """Return the rows with each metric's least and largest number, and the first that is none."""
        least: dict[int, tuple[float, int]] = {}
        most: dict[int, tuple[float, int]] = {}
        broken: dict[int, tuple[float, int]] = {}
        for row, _at, _epoch, _step, _rank, metric, value in self._all():
            if not math.isfinite(value):
                broken.setdefault(metric, (value, row))
            elif metric not in least:
                least[metric] = most[metric] = (value, row)
            elif value < least[metric][0]:
                least[metric] = (value, row)
            elif value > most[metric][0]:
                most[metric] = (value, row)
        return [
            found[metric][1] for metric in range(len(self._names)) for found in (least, most, broken) if metric in found
        ]


_row_of = operator.itemgetter(0)


def _known(number: float) -> float | None:
    return None if math.isnan(number) else number


def _cell(number: float | None) -> float | str | None:
    if number is None or math.isfinite(number):
        return number
    return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"
