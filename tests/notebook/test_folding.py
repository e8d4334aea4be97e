"""Equal lines of several ranks as one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jupyter_dlenv.notebook.folding import WINDOW, fold, rank_set

CASES = json.loads((Path(__file__).parent / "folding.json").read_text(encoding="utf-8"))


def folded(lines: list[str]) -> list[str]:
    return [line.shown() for line in fold(lines)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["about"])
def test_lines_fold_as_in_the_lab_extension(case: dict[str, list[str]]) -> None:
    """The lab extension's test reads the same cases."""
    assert folded(case["lines"]) == case["folded"]


def test_only_the_last_lines_can_be_joined() -> None:
    between = [f"line {number}" for number in range(WINDOW - 1)]
    assert folded(["far", *between, "[1] far"]) == ["[0-1] far", *between]
    assert folded(["far", *between, "one more", "[1] far"]) == ["far", *between, "one more", "[1] far"]


def test_every_line_is_in_one_of_them() -> None:
    lines = [f"[{rank}] {step % 3}" if rank else f"{step % 3}" for step in range(50) for rank in (2, 0, 1)]
    found = fold(lines)
    assert sum(len(line.ranks) for line in found) == len(lines)
    for rank in range(3):
        assert [line.text for line in found if rank in line.ranks] == [str(step % 3) for step in range(50)]


@pytest.mark.parametrize(
    ("ranks", "text"), [([0], "0"), ([1, 0], "0-1"), ([5, 0, 2, 3, 7, 6], "0,2-3,5-7"), (range(64), "0-63")]
)
def test_a_set_is_short(ranks: list[int], text: str) -> None:
    assert rank_set(ranks) == text
