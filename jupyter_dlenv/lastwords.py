"""What a kernel notes for the case that it dies: the request that runs, and the last text that it wrote.

Both ends are here: the kernel's, which runs in a user's container, and its owner's, which trusts nothing in the file.
Standard library only, Python 3.8 syntax.
"""

import json
import mmap
import os
import stat
import struct
from typing import Any, Dict, Optional

PARENT = "parent.json"
WORDS = "last-words"

_HEAD = struct.Struct("<Q")
_ROOM = 1 << 14
_PARENT_LIMIT = 1 << 16


class Notebook:
    """The kernel's end: files in its private folder, written at the cost of a memory copy.

    Raises:
        OSError: The folder cannot be written.
    """

    def __init__(self, folder: str) -> None:
        self._parent = os.open(os.path.join(folder, PARENT), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        descriptor = os.open(os.path.join(folder, WORDS), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(descriptor, _HEAD.size + _ROOM)
            self._ring = mmap.mmap(descriptor, _HEAD.size + _ROOM)
        finally:
            os.close(descriptor)
        self._written = 0
        self._pid = os.getpid()
        _HEAD.pack_into(self._ring, 0, 0)

    def note_parent(self, header: Dict[str, Any]) -> None:
        """Note the header of the request that begins to run."""
        text = json.dumps(header, default=lambda date: date.isoformat()).encode()
        os.pwrite(self._parent, text, 0)
        os.ftruncate(self._parent, len(text))

    def write(self, text: str) -> None:
        """Note text; as a stream's echo this sees all that it writes."""
        if os.getpid() != self._pid:
            return  # a forked worker; its words would tear the kernel's
        data = text.encode("utf-8", "replace")[-_ROOM:]
        start = self._written % _ROOM
        first = data[: _ROOM - start]
        self._ring[_HEAD.size + start : _HEAD.size + start + len(first)] = first
        rest = data[len(first) :]
        self._ring[_HEAD.size : _HEAD.size + len(rest)] = rest
        self._written += len(data)
        _HEAD.pack_into(self._ring, 0, self._written)

    def flush(self) -> None:
        """Do nothing: what is written is there."""


def read_parent(folder: str) -> Dict[str, Any]:
    """Return the header that was noted last; empty when there is none, or nonsense."""
    try:
        header = json.loads(_read(os.path.join(folder, PARENT), _PARENT_LIMIT) or b"{}")
    except (ValueError, RecursionError):
        return {}
    return header if isinstance(header, dict) and isinstance(header.get("msg_id"), str) else {}


def read_words(folder: str) -> str:
    """Return the last text that was noted, from the beginning of a line where it is cut."""
    data = _read(os.path.join(folder, WORDS), _HEAD.size + _ROOM) or b""
    if len(data) != _HEAD.size + _ROOM:
        return ""
    written, ring = _HEAD.unpack_from(data)[0], data[_HEAD.size :]
    if written <= _ROOM:
        return ring[:written].decode("utf-8", "replace")
    start = written % _ROOM
    return (ring[start:] + ring[:start]).decode("utf-8", "replace").partition("\n")[2]


def _read(path: str, limit: int) -> Optional[bytes]:
    """Return the beginning of a regular file; the container may have put anything else there."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.read(descriptor, limit) if stat.S_ISREG(os.fstat(descriptor).st_mode) else None
    except OSError:
        return None
    finally:
        os.close(descriptor)
