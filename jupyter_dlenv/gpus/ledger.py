"""The ledger of a host: one folder in which every process of every user says what it holds and what it waits for.

A record is a small file that its process keeps locked. The kernel of the host lets the lock go when the process ends,
however it ends, so a record that nobody locks is void. Whoever changes anything holds the ledger's own lock meanwhile;
nobody keeps that for longer than a look at NVML and Docker takes.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import stat
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import EngineUnavailable
from ..i18n import _

LEASES, QUEUE, MANAGERS = "leases", "queue", "managers"
_LOCK = "lock"
_PATIENCE_S = 30.0
_PAUSE_S = (0.0005, 0.02)
_LIMIT_BYTES = 1 << 16
_NUMBER = re.compile("([0-9]{1,12})-")
_MODE = 0o644
_SHARED_DIR = 0o1777  # everybody adds files of his own, and removes no one else's


@dataclass(frozen=True)
class Entry:
    """A record as others see it.

    Attributes:
        name: Its file's name without the suffix.
        data: What its process says; believed for showing only, as anybody could have written it.
        uid: Whose process it is, told by the file system.
        alive: Whether a process holds it.
    """

    name: str
    data: Mapping[str, Any]
    uid: int
    alive: bool


class Record:
    """A record that this process holds.

    Attributes:
        name: Its file's name without the suffix.
        data: What it says.
    """

    def __init__(self, path: Path, descriptor: int, data: Mapping[str, Any]) -> None:
        self.name = path.stem
        self.data = data
        self._path = path
        self._descriptor = descriptor

    @property
    def descriptor(self) -> int:
        """The locked file; a child process that inherits it holds the record, too."""
        return self._descriptor

    @property
    def path(self) -> Path:
        """Where the record lies."""
        return self._path

    def update(self, data: Mapping[str, Any]) -> None:
        """Say something else; readers see the old text or the new one, or for a moment none."""
        self.data = data
        text = json.dumps(dict(data), ensure_ascii=False).encode()
        os.pwrite(self._descriptor, text, 0)
        os.ftruncate(self._descriptor, len(text))

    def there(self) -> bool:
        """True until somebody takes the record away, which is how others call off what waits."""
        try:
            return os.fstat(self._descriptor).st_ino == os.stat(self._path, follow_symlinks=False).st_ino
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Give up what the record stands for, in every process that holds it."""
        if self._descriptor < 0:
            return
        if self.there():
            self._path.unlink(missing_ok=True)
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        self.leave()

    def leave(self) -> None:
        """Close it here; a child that inherited it goes on holding it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class Ledger:
    """The records of a host.

    Args:
        folder: The same for all users of the host; made when it is missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextlib.contextmanager
    def locked(self, patience_s: float = _PATIENCE_S) -> Iterator[None]:
        """Keep everybody else from changing the ledger.

        Raises:
            EngineUnavailable: Somebody holds the lock for longer than ``patience_s`` seconds, or the folder is not
                ours to use.
        """
        descriptor = self._open_lock()
        try:
            self._wait_for(descriptor, patience_s)
            yield
        finally:
            os.close(descriptor)

    def _open_lock(self) -> int:
        path = self.folder / _LOCK
        try:
            self._make()
            # Without O_CREAT where it exists: in a sticky folder the kernel refuses that for a file of somebody else.
            with contextlib.suppress(FileNotFoundError):
                return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            with contextlib.suppress(FileExistsError):
                made = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
                os.fchmod(made, _MODE)
                os.close(made)
            return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise EngineUnavailable(
                _("The GPU ledger {folder} cannot be used: {error}").format(folder=self.folder, error=error.strerror),
                hint=f"sudo install -d -m 1777 {self.folder}",
            ) from error

    def _make(self) -> None:
        if self.folder.is_symlink():  # anybody may put one into a folder that everybody writes
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        for folder in (self.folder, *(self.folder / name for name in (LEASES, QUEUE, MANAGERS))):
            if not folder.is_dir():
                folder.mkdir(parents=True, exist_ok=True)
                with contextlib.suppress(PermissionError):  # another user was faster, and has done it
                    folder.chmod(_SHARED_DIR)

    def _wait_for(self, descriptor: int, patience_s: float) -> None:
        deadline, pause = time.monotonic() + patience_s, _PAUSE_S[0]
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                pass
            if time.monotonic() > deadline:
                raise EngineUnavailable(
                    _("Another process has held the GPU ledger {folder} for {n:.0f} s.").format(
                        folder=self.folder, n=patience_s
                    ),
                    hint=f"fuser -v {self.folder / _LOCK}",
                )
            time.sleep(pause)
            pause = min(2 * pause, _PAUSE_S[1])

    # Records; to be called with the ledger locked ------------------------------------------------------------------

    def put(self, kind: str, name: str, data: Mapping[str, Any]) -> Record:
        """Write a record and hold it; one of the same name is replaced."""
        path = self.folder / kind / f"{name}.json"
        temporary = path.with_name(f".{name}.{os.getpid()}")
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
        try:
            os.fchmod(descriptor, _MODE)  # whatever the umask: what others cannot read does not bind them
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.write(descriptor, json.dumps(dict(data), ensure_ascii=False).encode())
            os.rename(temporary, path)
        except BaseException:
            os.close(descriptor)
            raise
        return Record(path, descriptor, data)

    def entries(self, kind: str) -> list[Entry]:
        """Return the records of a kind in the order of their names, those without a holder too."""
        try:
            names = sorted(name for name in os.listdir(self.folder / kind) if name.endswith(".json"))
        except FileNotFoundError:
            return []
        return [entry for name in names if (entry := _read(self.folder / kind / name))]

    def living(self, kind: str) -> list[Entry]:
        """Return the records that a process holds, and remove the others as far as they are ours to remove."""
        found = self.entries(kind)
        for entry in found:
            if not entry.alive:
                self.drop(kind, entry.name)
        return [entry for entry in found if entry.alive]

    def drop(self, kind: str, name: str) -> bool:
        """Take a record away, whoever holds it; False when it is gone already or another user's."""
        try:
            (self.folder / kind / f"{name}.json").unlink()
        except (FileNotFoundError, PermissionError):
            return False
        return True

    def next_name(self, suffix: str) -> str:
        """Return a name for a queue's record that sorts behind all that are there."""
        last = max((number_of(entry.name) or 0 for entry in self.entries(QUEUE)), default=0)
        return f"{last + 1:012d}-{suffix}"


def number_of(name: str) -> int | None:
    """Return the number in the name of a queue's record, None where there is none."""
    found = _NUMBER.match(name)
    return int(found.group(1)) if found else None


def _read(path: Path) -> Entry | None:
    """Return a record; None for one that has just gone, or that is nothing of ours.

    Raises:
        EngineUnavailable: It may not be read, so nobody knows what it stands for.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except PermissionError as error:
        raise EngineUnavailable(
            _("{path} in the GPU ledger may not be read.").format(path=path), hint=f"sudo chmod 644 {path}"
        ) from error
    except OSError:
        return None
    try:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode):
            return None
        data = json.loads(os.read(descriptor, _LIMIT_BYTES))
        return Entry(path.stem, data, about.st_uid, _is_held(descriptor)) if isinstance(data, dict) else None
    except (ValueError, RecursionError):
        return None
    finally:
        os.close(descriptor)


def _is_held(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False
