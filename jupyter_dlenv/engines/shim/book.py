"""What a shim writes besides the result: the merged log of all replicas, or its own lines only."""

import contextlib
import os

from .files import LAUNCHER_LOG
from .log import Log
from .merge import Merger
from .nodes import Node
from .tail import Tail

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Tuple


class Book:
    """Replica 0's: the merged log and the unfinished lines beside it.

    Args:
        run_dir: The run folder.
        launches: What each replica here runs.
    """

    def __init__(self, run_dir: bytes, launches: "List[Dict[str, Any]]") -> None:
        cap = int(launches[0]["log_cap_bytes"])
        nodes = [Node(index, launch) for index, launch in enumerate(launches)]
        self.log = Log(run_dir, cap)
        self._merger = Merger(run_dir, nodes, cap, self.log)
        self._tail = Tail(os.path.join(run_dir, b"tail.json"), self._merger)

    def note(self, text: str) -> None:
        """Write a line of our own."""
        self.log.note(text)

    def step(self) -> "Tuple[bool, bool]":
        """Go on with the log; return whether anything came, and whether more is waiting."""
        done = self._merger.step()
        self._tail.update(self.log.size)
        return done

    def finish(self) -> None:
        """Write all that is left."""
        self._merger.finish()
        self._tail.update(self.log.size, at_end=True)

    def state(self) -> "Dict[str, Any]":
        """Return what the result says of the log."""
        return {"log_bytes": self.log.size, "log_error": self.log.trouble or None}

    def lost(self) -> str:
        """Return why the end of the log is lost, empty when it is not."""
        return self.log.trouble if self.log.blocked else ""


class OwnLines(Book):
    """Any other replica's: replica 0 merges what lies in its raw files, so its own lines go there too."""

    def __init__(self, folder: bytes) -> None:
        self._path = os.path.join(folder, LAUNCHER_LOG.encode())

    def note(self, text: str) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        with contextlib.suppress(OSError):  # replica 0 has the same disk and tells of it
            descriptor = os.open(self._path, flags, 0o644)
            os.write(descriptor, f"[dlenv] {text}\n".encode("utf-8", "surrogateescape"))
            os.close(descriptor)

    def step(self) -> "Tuple[bool, bool]":
        return False, False

    def finish(self) -> None:
        return

    def state(self) -> "Dict[str, Any]":
        return {"log_bytes": 0, "log_error": None}

    def lost(self) -> str:
        return ""
