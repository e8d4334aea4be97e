"""The unfinished lines (progress bars), beside the log."""

import json
import os
import time

from .limits import LOOK_S
from .merge import Merger

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict


class Tail:
    """``tail.json``: the unfinished lines, for those who follow."""

    def __init__(self, path: bytes, merger: Merger) -> None:
        self._path = path
        self._merger = merger
        self._written: Dict[str, str] = {}
        self._written_at = 0.0

    def update(self, at_end: bool = False) -> None:
        """Replace the file when the lines changed, a few times a second at most."""
        if not at_end and time.monotonic() - self._written_at < LOOK_S:
            return
        self._written_at = time.monotonic()
        texts = {} if at_end else self._merger.open_lines()
        if texts == self._written:
            return
        try:
            with open(self._path + b".new", "w", encoding="utf-8") as file:
                json.dump({"open": texts}, file)
            os.rename(self._path + b".new", self._path)
            self._written = texts
        except OSError:
            return  # only a progress bar stands still; the log says that the disk failed
