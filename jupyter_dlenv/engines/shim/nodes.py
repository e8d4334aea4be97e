"""Where the raw files of a job's replicas are, and how their lines are marked in the log. Pure."""

import re
import sys

from .files import folder_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Optional

PROCESS_LOGS = {"pattern": "ranks/*/std*.log", "rank_part": -2}
MAX_DIGITS = 7
NODE_ORDER = 1000
NAMED = re.compile("[0-9A-Za-z_-]{1,20}( [0-9]{1,6})?$")


def _name_of(process: "Any") -> str:
    """Return what a process is called, empty where it has no name; a stranger may have written it."""
    name = process.get("name") if isinstance(process, dict) else ""
    return name if isinstance(name, str) and NAMED.match(name) else ""


class Mark:
    """Whose lines they are.

    Attributes:
        name: Key of the unfinished line.
        prefix: What each line begins with.
        order: Whose lines come first: ranks before launchers, because the lines that caused an end then stand before
            what the launcher says about it.
    """

    def __init__(self, name: str, prefix: str = "", order: int = sys.maxsize) -> None:
        self.name = name
        self.prefix = prefix.encode()
        self.order = order


class Node:
    """One replica, as far as the log goes.

    Args:
        index: Which of the replicas on this host.
        launch: Its launch.json.
    """

    def __init__(self, index: int, launch: "Dict[str, Any]") -> None:
        logs: Optional[Dict[str, Any]] = launch.get("rank_logs") or (PROCESS_LOGS if launch.get("processes") else None)
        self.folder = folder_of(index)
        self.pattern = str(logs["pattern"]) if logs else ""
        self.rank_part = int(logs["rank_part"]) if logs else -1
        self._index = index
        self._first_rank = int(launch.get("first_rank") or 0)
        self._number = int(launch.get("node_rank") or index)
        processes = launch.get("processes")
        self._names = [_name_of(process) for process in processes] if isinstance(processes, list) else []

    def launcher(self) -> Mark:
        """Return whose lines the command's own are: where ranks have no files of their own, those of the first rank."""
        if not self.pattern and self._first_rank:
            return Mark(str(self._first_rank), f"[{self._first_rank}] ", self._first_rank)
        if self._number:
            return Mark(f"node {self._number}", f"[node {self._number}] ")
        return Mark("launcher", order=sys.maxsize if self.pattern else 0)

    def rank(self, path: str) -> Mark:
        """Return whose lines a file is, by its path below the replica's folder."""
        part = path.split("/")[self.rank_part]
        if not 0 < len(part) < MAX_DIGITS or part.strip("0123456789"):
            return Mark(part)
        local = int(part)
        name = self._names[local] if local < len(self._names) else ""
        if name:
            return Mark(name, f"[{name}] " if local or self._number else "", self._number * NODE_ORDER + local)
        rank = self._first_rank + local
        return Mark(str(rank), f"[{rank}] " if rank else "", rank)
