"""Folds lines that several ranks wrote alike into one: ``[0-3] epoch 1`` for ``epoch 1``, ``[1] epoch 1`` and so on.

The JupyterLab extension folds by the same rule. Standard library only, Python 3.8 syntax.
"""

import re
from bisect import bisect_right
from typing import Dict, Iterable, List, NamedTuple, Sequence, Tuple

WINDOW = 100
"""How many of the last shown lines another rank's line may join."""

_PREFIX = re.compile(r"\[([1-9][0-9]{0,4})\] ")


class Folded(NamedTuple):
    """A line and the ranks that wrote it, in the order in which they came."""

    ranks: List[int]
    text: str

    def shown(self) -> str:
        """Return the line with its prefix; what rank 0 alone wrote has none."""
        return self.text if self.ranks == [0] else f"[{rank_set(self.ranks)}] {self.text}"


def parted(line: str) -> Tuple[int, str]:
    """Return the rank that a line's prefix names, 0 without one, and the rest of the line."""
    match = _PREFIX.match(line)
    return (int(match.group(1)), line[match.end() :]) if match else (0, line)


def rank_set(ranks: Iterable[int]) -> str:
    """Return numbers as a set: ``0,2-3``."""
    runs: List[List[int]] = []
    for rank in sorted(ranks):
        if runs and runs[-1][1] == rank - 1:
            runs[-1][1] = rank
        else:
            runs.append([rank, rank])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def fold(lines: Sequence[str]) -> List[Folded]:
    """Return the lines with equal ones of several ranks joined.

    A line joins the first equal one among the last :data:`WINDOW` that comes after all that its own rank has a part in,
    so the lines of each rank keep their order.
    """
    found: List[Folded] = []
    newest: Dict[int, int] = {}  # the last place that a rank has a part in
    places: Dict[str, List[int]] = {}  # where a text stands, in order
    for line in lines:
        rank, text = parted(line)
        same = places.setdefault(text, [])
        next_one = bisect_right(same, max(newest.get(rank, -1), len(found) - 1 - WINDOW))
        if next_one == len(same):
            same.append(len(found))
            found.append(Folded([], text))
        place = same[next_one]
        found[place].ranks.append(rank)
        newest[rank] = place
    return found
