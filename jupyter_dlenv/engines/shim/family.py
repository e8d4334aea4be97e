"""The command and all that it started: who lives, and who is told to end."""

import contextlib
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, Optional, Set, Tuple

PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> bool:
    """Become the parent of descendants that lose theirs; False where the system does not offer it."""
    try:
        import ctypes

        return bool(ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)
    except (ImportError, OSError, AttributeError):
        return False


def processes() -> "Dict[int, Tuple[int, int, int]]":
    """Return parent, session and start time of every living process that this one can see, by id."""
    found = {}
    for name in os.listdir("/proc") if os.path.isdir("/proc") else ():
        try:
            with open(f"/proc/{int(name)}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
        except (ValueError, OSError):
            continue  # not a process, or one that just ended
        if fields[0] not in (b"Z", b"X"):
            found[int(name)] = (int(fields[1]), int(fields[3]), int(fields[19]))
    return found


class Family:
    """The command and all that it started, sessions of their own included (torchrun gives each rank one)."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.status: Optional[int] = None
        self._adopts = adopt_orphans()
        self._alone = False
        self._known: Dict[int, int] = {}  # start times by id, where orphans go to somebody else

    def watch(self) -> None:
        """Remember who is there, where that cannot be told any more once a parent ends."""
        if not self._adopts:
            table = processes()
            self._known.update((pid, table[pid][2]) for pid in self._members(table))

    def reap(self) -> None:
        """Collect ended children."""
        try:
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == self.pid:
                    self.status = status
                if not pid:
                    return
        except ChildProcessError:
            self._alone = True

    def members(self) -> "Set[int]":
        """Return the ids of everybody who lives."""
        return set() if self._adopts and self._alone else self._members(processes())

    def send(self, signum: int, everybody: bool = False) -> None:
        """Signal the command's process group, or all members."""
        if not everybody and self.status is None:
            _signal(-self.pid, signum)
        for pid in self.members() if everybody else ():
            _signal(pid, signum)

    def _members(self, table: "Dict[int, Tuple[int, int, int]]") -> "Set[int]":
        known = {pid for pid, start in self._known.items() if pid in table and table[pid][2] == start}
        known |= {pid for pid, (_, session, _) in table.items() if session == self.pid}
        level = known | {os.getpid()}
        while level:
            level = {pid for pid, (parent, _, _) in table.items() if parent in level} - known
            known |= level
        return known - {os.getpid()}


def _signal(pid: int, signum: int) -> None:
    # It may just have ended, or become another user's (sudo): then there is nothing that we may end.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signum)
