"""The replicas of one job on one host: when one fails all stop, without anybody outside who would have to see it."""

import errno
import fcntl
import json
import os
import time

from .files import ALIVE, DONE, FIRST, LAUNCH, RESULT, create, folder_of, read_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Optional

STARTING_S = 60.0


def serves(launch: "Dict[str, Any]") -> bool:
    """Tell whether none of a replica's processes has an end of its own."""
    processes = launch.get("processes") or ()
    return bool(processes) and all(process.get("serves") for process in processes)


class Peer:
    """Another replica, as its files show it."""

    def __init__(self, run_dir: bytes, index: int) -> None:
        self.index = index
        self.result: Dict[str, Any] = {}
        self.gone = False
        self._folder = os.path.join(run_dir, folder_of(index).encode())
        self._serves: Optional[bool] = None

    @property
    def over(self) -> bool:
        """True when nothing more is to come of it."""
        return bool(self.result) or self.gone

    @property
    def failed(self) -> bool:
        """True when it ended badly, or vanished."""
        return self.gone or (bool(self.result) and self.result.get("exit_code") != 0)

    @property
    def serves(self) -> bool:
        """True when it goes on until the others are done."""
        if self._serves is None:
            self._serves = serves(self.launch())
        return self._serves

    def launch(self) -> "Dict[str, Any]":
        """Return what it runs, which was written before any replica began."""
        return _read(os.path.join(self._folder, LAUNCH))

    def look(self) -> None:
        """See how it is."""
        if self.over:
            return
        unlocked = self._unlocked()  # asked first: its result is there before its lock is free
        self.result = _read(os.path.join(self._folder, RESULT))
        self.gone = unlocked and not self.result

    def appeared(self) -> bool:
        """Tell whether it has ever begun."""
        return self.over or os.path.lexists(os.path.join(self._folder, ALIVE))

    def _unlocked(self) -> bool:
        try:
            descriptor = os.open(os.path.join(self._folder, ALIVE), os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
        except OSError:
            return False  # not there yet
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return True
        except OSError as error:
            return error.errno not in (errno.EWOULDBLOCK, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)
        finally:
            os.close(descriptor)


class Gang:
    """All replicas here, as one of them sees the others.

    Args:
        run_dir: The run folder of replica 0, shared by all.
        index: Which of them this one is.
        launch: What this one runs.

    Attributes:
        serves: Whether this one goes on until the others are done.
    """

    def __init__(self, run_dir: bytes, index: int, launch: "Dict[str, Any]") -> None:
        self.index = index
        self._run_dir = run_dir
        self.serves = serves(launch)
        self._leads = launch.get("ends") == "leader"
        self._peers = [Peer(run_dir, other) for other in range(int(launch.get("replicas") or 1)) if other != index]

    def launches(self) -> "List[Dict[str, Any]]":
        """Return what the others run."""
        return [peer.launch() for peer in self._peers]

    def look(self) -> str:
        """Return why this replica is to end: ``gang`` when another failed, ``done`` when no more is wanted of it."""
        for peer in self._peers:
            peer.look()
        if self._peers and (self._exists(FIRST) or any(peer.failed for peer in self._peers)):
            return "gang"
        if self.index and self._leads and (self._exists(DONE) or self._peers[0].over):
            return "done"
        wanted = [peer for peer in self._peers if not peer.serves]
        if self.serves and wanted and all(self._ended_well(peer) for peer in wanted):
            return "done"
        return ""

    def failed(self) -> None:
        """Tell the others that this replica failed, and everybody which one did so first."""
        create(self._path(FIRST), json.dumps({"index": self.index, "at": time.time()}).encode())

    def succeeded(self) -> None:
        """Tell the others that replica 0's command ended well; its result has to wait for theirs."""
        if not self.index and self._peers:
            create(self._path(DONE))

    def waiting(self, since: float) -> bool:
        """Tell whether other replicas still run, or may still begin."""
        for peer in self._peers:
            peer.look()
        patient = time.monotonic() - since < STARTING_S
        return any(not peer.over and (patient or peer.appeared()) for peer in self._peers)

    def _ended_well(self, peer: Peer) -> bool:
        return (not peer.index and self._exists(DONE)) or (peer.over and not peer.failed)

    def _exists(self, name: bytes) -> bool:
        return os.path.lexists(self._path(name))

    def _path(self, name: bytes) -> bytes:
        return os.path.join(self._run_dir, name)


def _read(path: bytes) -> "Dict[str, Any]":
    """Return what a peer's file holds, nothing where it is not there or not whole."""
    try:
        return read_json(path)
    except (OSError, ValueError):
        return {}
