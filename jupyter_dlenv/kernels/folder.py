"""The private folder that a kernel shares with the process that started it: sockets, connection file, owner's lock."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..atomic import write_text
from ..errors import Conflict, Denied
from ..i18n import _
from ..lastwords import PARENT, WORDS
from ..paths import API_SOCKET, kernel_dir
from ..spec import Identity, require_id

CHANNELS = ("shell", "iopub", "stdin", "hb", "control")
_PREFIX, _LOCK = "k", "owner.lock"


class KernelFolder:
    """One kernel's folder on the host.

    Args:
        folder_id: Canonical UUID, mostly the kernel's own; anything else is refused before it becomes a path.
    """

    def __init__(self, folder_id: str) -> None:
        self.id = require_id(folder_id)
        self.path = kernel_dir(folder_id)
        self._lock: int | None = None

    @property
    def api_socket(self) -> Path:
        """Where the kernel's job API listens."""
        return self.path / API_SOCKET

    @property
    def prefix(self) -> str:
        """What ZeroMQ calls the address of an ``ipc`` transport: the sockets are ``<prefix>-<port>``."""
        return str(self.path / _PREFIX)

    def create(self, owner: Identity | None) -> None:
        """Make the folder, 0700, and hold the lock that tells the kernel that its owner lives.

        Raises:
            Conflict: A living kernel has this id.
            Denied: The folder above belongs to somebody else.
        """
        if self._lock is not None:
            return  # a restart: what lies in the folder is the container's, and nothing of it is trusted
        _require_private(self.path.parent)
        if self.path.exists():
            self._clear_leftover()
        self.path.mkdir(mode=0o700)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._lock = os.open(self.path / _LOCK, flags, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        numbers = _numbers(owner)
        if numbers:
            os.fchown(self._lock, *numbers)
            os.chown(self.path, *numbers, follow_symlinks=False)

    def _clear_leftover(self) -> None:
        if not self.abandoned():
            raise Conflict(_("A kernel of the id {id} is running already.").format(id=self.path.name))
        shutil.rmtree(self.path)

    def abandoned(self) -> bool:
        """True when no living process owns the kernel."""
        if not self._lock_exists():
            return True
        if not self.adopt():
            return False
        self.release()
        return True

    def _lock_exists(self) -> bool:
        return os.path.lexists(self.path / _LOCK)

    def adopt(self) -> bool:
        """Become the owner of a kernel that has none; False when it has, or when the lock is gone."""
        try:
            lock = os.open(self.path / _LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            return False
        self._lock = lock
        return True

    def release(self) -> None:
        """Own the kernel no more: from now on its watchdog counts the seconds."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def write_connection(self, connection: Mapping[str, Any], prefix: str, owner: Identity | None) -> None:
        """Write the kernel's own connection file; inside a container the sockets lie at another prefix."""
        text = json.dumps({**connection, "key": connection["key"].decode(), "ip": prefix})
        write_text(self.path / "connection.json", text, owner=_numbers(owner), durable=False)

    def bound(self) -> bool:
        """True once the kernel listens on every channel."""
        return all((self.path / f"{_PREFIX}-{port}").exists() for port in range(1, len(CHANNELS) + 1))

    def forget_sockets(self) -> None:
        """Remove what an earlier start left, so that :meth:`bound` speaks of the next one."""
        for port in range(1, len(CHANNELS) + 1):
            (self.path / f"{_PREFIX}-{port}").unlink(missing_ok=True)
        for name in (PARENT, WORDS):
            (self.path / name).unlink(missing_ok=True)

    def remove(self) -> None:
        """Let go of the lock and remove the folder."""
        self.release()
        shutil.rmtree(self.path, ignore_errors=True)


def _numbers(owner: Identity | None) -> tuple[int, int] | None:
    """Return whom files are given to: somebody else only when this process is root."""
    return (owner.uid, owner.gid) if owner is not None and os.geteuid() == 0 else None


def ports() -> dict[str, int]:
    """Return the channels' numbers, the same at every start."""
    return {f"{channel}_port": number for number, channel in enumerate(CHANNELS, start=1)}


def _require_private(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if folder.is_symlink() or found.st_uid != os.geteuid():
        raise Denied(
            _("{path} belongs to somebody else, so kernels' sockets cannot lie there.").format(path=folder),
            hint=f"ls -ld {folder}",
        )
    if found.st_mode & 0o077:
        folder.chmod(0o700)
