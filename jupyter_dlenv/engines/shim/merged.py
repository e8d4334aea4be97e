"""How far each raw file is in the log, so that a log whose writer was killed can be completed, nothing twice.

One entry for each raw file says which of its bytes the last piece came from, and where in the log that piece lies. The
entry is written before the piece. As the log only grows, its size tells later whether the piece arrived whole.
"""

import os
import struct
from collections import namedtuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, Optional

Entry = namedtuple("Entry", "path begin end log_begin log_end cut_before cut_after anew check")
"""The last piece of one raw file: its path below the run folder, its bytes there and in the log, whether it began and
ended within a line that was cut, whether the file was ever written anew, and the file's last bytes before ``end``."""
Entry.__new__.__defaults__ = (False, b"")

NAME = b"merged"
ENTRY_BYTES = 1024  # a part of a page: such a write is done or not when its process is killed
MAX_ENTRIES = 1 << 14
_NUMBERS = struct.Struct("<QQQQ??H")
CHECK_BYTES = 64
_LAST = struct.Struct(f"<?B{CHECK_BYTES}s")  # behind the path, where older shims left zeros
MAX_PATH = ENTRY_BYTES - _NUMBERS.size - _LAST.size


def pack(entry: Entry) -> bytes:
    """Return an entry as it lies in the file."""
    path: bytes = entry.path
    begin = _NUMBERS.pack(*entry[1:7], len(path)) + path
    return begin.ljust(ENTRY_BYTES - _LAST.size, b"\0") + _LAST.pack(entry.anew, len(entry.check), entry.check)


def unpack(data: bytes) -> "Dict[int, Entry]":
    """Return all entries of a file by their places; what is no entry is left out."""
    found = {}
    for place in range(0, min(len(data), MAX_ENTRIES * ENTRY_BYTES) - ENTRY_BYTES + 1, ENTRY_BYTES):
        *values, length = _NUMBERS.unpack_from(data, place)
        begin, end, log_begin, log_end = values[:4]
        if 0 < length <= MAX_PATH and begin <= end < 1 << 63 and log_begin <= log_end < 1 << 63:
            path = data[place + _NUMBERS.size :][:length]
            anew, check_bytes, check = _LAST.unpack_from(data, place + ENTRY_BYTES - _LAST.size)
            found[place] = Entry(path, *values)._replace(anew=anew, check=check[:check_bytes])
    return found


class Merged:
    """The file, as its one writer sees it.

    Args:
        descriptor: The file, open for writing.
        entries: What it holds.
    """

    def __init__(self, descriptor: int, entries: "Dict[int, Entry]") -> None:
        self._descriptor = descriptor
        self._places = {entry.path: place for place, entry in entries.items()}
        self._end = max(entries, default=-ENTRY_BYTES) + ENTRY_BYTES

    def note(self, entry: Entry) -> None:
        """Write an entry in the place of its path's last one.

        Raises:
            OSError: The disk refuses it.
        """
        place = self._places.get(entry.path, self._end)
        os.pwrite(self._descriptor, pack(entry), place)
        self._places[entry.path] = place
        self._end = max(self._end, place + ENTRY_BYTES)


class Progress:
    """How far one raw file has been made into lines.

    Args:
        path: The file's, below the run folder.
        last: Its last entry, where there is one.
    """

    def __init__(self, path: bytes, last: "Optional[Entry]" = None) -> None:
        self.end = last.end if last else 0
        self.cut = last.cut_after if last else False
        self.anew = last.anew if last else False
        self._path = path

    def advance(self, end: int, cut: bool, check: bytes = b"") -> Entry:
        """Return the entry of the lines up to a byte, its places in the log left open."""
        begin, cut_before = self.end, self.cut
        self.end, self.cut = end, cut
        return Entry(self._path, begin, end, 0, 0, cut_before, cut, self.anew, check)

    def move(self, end: int) -> None:
        """Go on from another byte, because the file was written anew."""
        self.end, self.cut, self.anew = end, False, True
