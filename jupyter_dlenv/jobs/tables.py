"""Rows of metrics as a table for plots, and as the text of ``metrics.csv``. Pure.

The file has one line for each number (``epoch,step,rank,name,value``), so that it can be appended to whatever metrics
come later.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from .metrics import Row

HEADER = "epoch,step,rank,name,value\n"
"""First line of ``metrics.csv``."""

PLACES = ("epoch", "step", "rank")


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


def read_csv(text: str) -> list[Row]:
    """Return the rows of ``metrics.csv``; lines that cannot be read, such as a half-written last one, are left out."""
    rows: list[Row] = []
    place: tuple[float | None, float | None, int] | None = None
    values: dict[str, float] = {}
    for here, name, value in _numbers(text):
        if here != place or name in values:
            if place and values:
                rows.append(Row(place[1], place[0], place[2], values))
            place, values = here, {}
        values[name] = value
    if place and values:
        rows.append(Row(place[1], place[0], place[2], values))
    return rows


def _numbers(text: str) -> Iterator[tuple[tuple[float | None, float | None, int], str, float]]:
    whole = text[: text.rfind("\n") + 1].replace("\0", "")
    for cells in csv.reader(whole.split("\n")):
        try:
            epoch, step, rank, name, value = cells
            place = (float(epoch) if epoch else None, float(step) if step else None, int(rank))
            yield place, name, float(value)
        except ValueError:
            continue  # the header is one of them


def _plain(number: float | None) -> str:
    if number is None:
        return ""
    return str(int(number)) if math.isfinite(number) and number == int(number) and abs(number) < 1e15 else repr(number)


def table(rows: Sequence[Row]) -> dict[str, Any]:
    """Return rows as ``{"columns": [...], "rows": [...]}`` for JSON: None for nothing, NaN and infinities as text."""
    names = list(dict.fromkeys(name for row in rows for name in row.values))
    cells = [
        [_cell(row.epoch), _cell(row.step), row.rank, *(_cell(row.values.get(name)) for name in names)] for row in rows
    ]
    return {"columns": [*PLACES, *names], "rows": cells}


def _cell(number: float | None) -> float | str | None:
    if number is None or math.isfinite(number):
        return number
    return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"


def thin(whole: dict[str, Any], most: int = 1000) -> dict[str, Any]:
    """Return a table with at most so many rows: the first, the last, each column's extremes, others evenly."""
    rows = whole["rows"]
    if len(rows) <= most:
        return whole
    kept = dict.fromkeys([0, len(rows) - 1][:most])
    for column in range(len(PLACES), len(whole["columns"])):
        finite = [index for index, row in enumerate(rows) if isinstance(row[column], (int, float))]
        broken = [index for index, row in enumerate(rows) if isinstance(row[column], str)]
        for index in _extremes(rows, column, finite) + broken[:1]:
            if len(kept) < most:
                kept[index] = None
    for index in range(left := most - len(kept)):
        kept[index * len(rows) // left] = None
    return {"columns": whole["columns"], "rows": [rows[index] for index in sorted(kept)]}


def _extremes(rows: Sequence[Sequence[Any]], column: int, among: Sequence[int]) -> list[int]:
    if not among:
        return []
    return [pick(among, key=lambda index: rows[index][column]) for pick in (min, max)]
