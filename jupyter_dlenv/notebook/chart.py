"""Metrics as a small drawing that needs no program to be seen.

Standard library only, Python 3.8 syntax.
"""

import html
import math
from typing import Any, Dict, List, Mapping, NamedTuple, Sequence, Tuple

PLACES = ("epoch", "step", "rank")
"""Columns that are no metrics."""

_WIDTH, _HEIGHT, _MARGIN, _ROW = 420, 110, 6, 15
_MOST_LINES = 6
_MOST_POINTS = 200
_NAME_CHARS = 40
_MOST_NOTES, _NOTE_CHARS = 5, 300
_COLORS = ("#2f76d0", "#d1383d", "#1f8a3f", "#a87b00", "#a550a8", "#0f8a8f")


class Series(NamedTuple):
    """One metric: its name, and its points from 0 to 1 in both directions.

    Attributes:
        least: The value that is drawn lowest.
        most: The value that is drawn highest.
        last: The newest value.
    """

    name: str
    points: List[Tuple[float, float]]
    least: float
    most: float
    last: float


def chart_html(metrics: Mapping[str, Any]) -> str:
    """Return a job's metrics as a picture, and below it what the API notes of numbers that are missing."""
    lines = str(metrics.get("note") or "").split("\n")[:_MOST_NOTES]
    notes = "<br>".join(html.escape(line[:_NOTE_CHARS]) for line in lines)
    picture = chart_svg(metrics["columns"], metrics["rows"])
    return picture + (f"<div>{notes}</div>" if notes else "")


def chart_svg(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return metrics as an SVG picture with a legend, empty when there is nothing to draw.

    Each metric is drawn between its own least and largest value: a loss and an accuracy have no scale in common.

    Args:
        columns: Names; those of :data:`PLACES` say where in the training a row belongs, the others are metrics.
        rows: Values in the order of the columns, None where a row has none.
    """
    drawn = series(columns, rows)[:_MOST_LINES]
    if not drawn:
        return ""
    height = _HEIGHT + _ROW * len(drawn) + _MARGIN
    parts = [part for number, one in enumerate(drawn) for part in (_line(number, one), _legend(number, one))]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
        f'viewBox="0 0 {_WIDTH} {height}" role="img">{"".join(parts)}</svg>'
    )


def series(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> List[Series]:
    """Return the metrics of each rank that hold numbers, as points."""
    places = _places(_column(columns, rows, "step"))
    ranks = _column(columns, rows, "rank")
    found: Dict[Tuple[str, Any], List[Tuple[float, float]]] = {}
    for number, name in enumerate(columns):
        for place, rank, row in zip(places, ranks, rows):
            if name not in PLACES and number < len(row) and _is_number(row[number]):
                found.setdefault((name, rank), []).append((place, float(row[number])))
    return [_series(f"[{rank}] {name}" if rank else name, pairs) for (name, rank), pairs in found.items()]


def _series(name: str, pairs: List[Tuple[float, float]]) -> Series:
    values = [value for _place, value in pairs]
    least, most = min(values), max(values)
    step = max(1, math.ceil(len(pairs) / _MOST_POINTS))
    kept = pairs[::-1][::step][::-1]  # the newest is always among them
    points = [(place, (value - least) / (most - least) if most > least else 0.5) for place, value in kept]
    return Series(name, points, least, most, values[-1])


def _column(columns: Sequence[str], rows: Sequence[Sequence[Any]], name: str) -> List[Any]:
    place = columns.index(name) if name in columns else -1
    return [row[place] if 0 <= place < len(row) else None for row in rows]


def _places(steps: Sequence[Any]) -> List[float]:
    """Return where each row stands from left to right: by its step if steps only grow, else in its turn."""
    known = [float(step) for step in steps if _is_number(step)]
    grows = len(known) == len(steps) and all(a <= b for a, b in zip(known, known[1:]))
    shown = known if grows else [float(turn) for turn in range(len(steps))]
    width = shown[-1] - shown[0] if shown else 0
    return [(step - shown[0]) / width if width > 0 else 0.5 for step in shown]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300


def _line(number: int, one: Series) -> str:
    width, height = _WIDTH - 2 * _MARGIN, _HEIGHT - 2 * _MARGIN
    points = [f"{_MARGIN + x * width:.1f},{_MARGIN + (1 - y) * height:.1f}" for x, y in one.points]
    shown = points * 2 if len(points) == 1 else points  # a line to itself is a dot
    return (
        f'<polyline fill="none" stroke="{_COLORS[number]}" stroke-width="1.5" stroke-linecap="round" '
        f'stroke-linejoin="round" points="{" ".join(shown)}"/>'
    )


def _legend(number: int, one: Series) -> str:
    name = one.name[:_NAME_CHARS]
    text = html.escape(f"{name} {one.last:.6g} ({one.least:.6g} … {one.most:.6g})")
    place = f'x="{_MARGIN}" y="{_HEIGHT + _ROW * (number + 1) - 3}"'
    return f'<text {place} fill="{_COLORS[number]}" font-family="sans-serif" font-size="12">{text}</text>'
