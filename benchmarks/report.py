"""The table for a person and the file for whoever compares runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .samples import Figure, Samples

RESULTS = Path(__file__).parent / "results"


def table(figures: Sequence[Figure]) -> str:
    """Return the figures as lines, each with where its time goes."""
    return "\n".join(line for figure in figures for line in _rows(figure))


def _rows(figure: Figure) -> list[str]:
    sign = "<=" if figure.met else "MISSED, goal"
    kind = "ratio" if figure.reference else "largest"
    rows = [f"\n{figure.title}", f"  {kind:<34} {figure.value:9.3f}  {sign} {figure.goal:g}"]
    sides = [figure.ours, *([figure.reference] if figure.reference else [])]
    rows += [_row("", side, figure.unit) for side in sides]
    return rows + [_row("  ", part, figure.unit) for part in figure.parts]


def _row(indent: str, samples: Samples, unit: str) -> str:
    low, high = min(samples.values), max(samples.values)
    label = f"{indent}{samples.label}"
    return f"  {label:<34} {samples.median:9.3f} {unit}  ({low:.3f} to {high:.3f}, n={len(samples.values)})"


def write(report: dict[str, Any]) -> Path:
    """Write a report and return its path, which holds the date."""
    RESULTS.mkdir(exist_ok=True)
    stamp = report["date"].replace(":", "").replace("+0000", "Z")
    path = RESULTS / f"{stamp}.json"
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return path
