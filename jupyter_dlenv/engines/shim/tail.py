"""The unfinished lines (progress bars), beside the log."""

import json
import os
import time

from .limits import LINE_S, LOOK_S
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
        self._looked_at = 0.0
        self._log_bytes = 0

    def update(self, log_bytes: int, at_end: bool = False) -> None:
        """Replace the file when the lines changed or the log has grown, some times a second at most."""
        patience_s = LOOK_S if log_bytes == self._log_bytes else LINE_S
        if not at_end and time.monotonic() - self._looked_at < patience_s:
            return
        self._looked_at = time.monotonic()
        texts = {} if at_end else self._merger.open_lines()
        unchanged = texts == self._written and (not texts or log_bytes == self._log_bytes)
        self._log_bytes = log_bytes
        if unchanged:
            return
        try:
            with open(self._path + b".new", "w", encoding="utf-8") as file:
                json.dump({"open": texts, "log_bytes": log_bytes}, file)
            os.rename(self._path + b".new", self._path)
            self._written = texts
        except OSError:
            return  # only a progress bar stands still; the log says that the disk failed
