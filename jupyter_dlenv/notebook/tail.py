"""The last lines of a log, kept without a look at those before them.

Standard library only, Python 3.8 syntax.
"""

from collections import deque
from typing import Deque, Dict, List

from .client import Frame
from .folding import Folded, fold
from .terminal_text import plain, settled

LAST_LINES = 200
_MOST_RANKS = 16  # whose equal lines are all kept, so that they fold into LAST_LINES
_UNNAMED = ("0", "launcher")


class LogTail:
    """The last lines of a log and the progress bars below them.

    Args:
        most: Lines to show.
        ranks: Processes that write the log; equal lines of several are one line, and 1 writes none to fold.

    Attributes:
        count: Lines of the log so far.
    """

    def __init__(self, most: int = LAST_LINES, ranks: int = 1) -> None:
        self._most, self._folds = most, ranks != 1
        self._lines: Deque[str] = deque(maxlen=most * max(1, min(ranks, _MOST_RANKS)))
        self._open: Dict[str, str] = {}
        self.count = 0

    def add(self, frame: Frame) -> None:
        """Take in a frame; only as many of its lines as may be shown are looked at."""
        data = frame.data
        if data:
            whole = data[:-1] if data.endswith(b"\n") else data
            most = self._lines.maxlen or 0
            self.count += whole.count(b"\n") + 1
            last = whole.rsplit(b"\n", most)[-most:]
            self._lines.extend(settled(line.decode("utf-8", "replace")) for line in last)
        self._open = dict(frame.open_lines)

    def lines(self) -> List[Folded]:
        """Return the lines to show."""
        return self._folded(self._lines)[-self._most :]

    def bars(self) -> List[Folded]:
        """Return the ranks' unfinished lines, in the order of ranks."""
        ranks = sorted(self._open, key=lambda rank: (not rank.isdigit(), len(rank), rank))
        prefixed = ["" if rank in _UNNAMED else f"[{rank}] " for rank in ranks]
        return self._folded([prefix + settled(self._open[rank]) for prefix, rank in zip(prefixed, ranks)])

    def text(self) -> str:
        """Return what to show, without colours."""
        return "\n".join(plain(line.shown()) for line in [*self.lines(), *self.bars()])

    def _folded(self, lines: "Deque[str] | List[str]") -> List[Folded]:
        return fold(list(lines)) if self._folds else [Folded([0], line) for line in lines]
