"""The merged log as a file: append only, bounded on disk."""

import os
import sys

from .limits import CHUNK, PASSING
from .merged import NAME, Entry, Merged

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List, Optional, Tuple

FALLOC_FL_PUNCH_HOLE_KEEP_SIZE = 3


def give_back(descriptor: int, start: int, end: int) -> bool:
    """Return a range's blocks to the file system, which leaves a hole; False where it cannot."""
    try:
        import ctypes

        fallocate = ctypes.CDLL(None).fallocate
    except (ImportError, OSError, AttributeError):
        return False
    long = ctypes.c_int64
    return bool(fallocate(descriptor, FALLOC_FL_PUNCH_HOLE_KEEP_SIZE, long(start), long(end - start)) == 0)


class Log:
    """The merged log: append only, bounded on disk. What the disk refuses waits here, and the command goes on."""

    def __init__(self, folder: bytes, cap: int) -> None:
        self.size = 0
        self.trouble = ""
        self.hopeless = False
        self._folder = folder
        self._cap = cap
        self._descriptor = -1
        self._merged: Optional[Merged] = None
        self._waiting: List[Tuple[bytes, Optional[Entry]]] = []  # an entry is noted before the first of its bytes
        self._gap = self._gap_end = 0  # the left-out middle; it begins where a line begins
        self._tail: Optional[bytes] = None  # the last lines, where the file system makes no holes
        self.flush()

    @property
    def blocked(self) -> bool:
        """True while the disk refuses what was appended."""
        return bool(self._waiting)

    def append(self, whole_lines: bytes, origin: "Optional[Entry]" = None) -> None:
        """Write lines at the end; ``origin`` says which raw file they are from, its places in the log left open."""
        if self._tail is not None:
            self._tail = (self._tail + whole_lines)[-min(CHUNK, self._cap // 4) :]
            return
        if whole_lines:
            self._waiting.append((whole_lines, origin))
        self.flush()

    def note(self, text: str) -> None:
        """Write a line of our own."""
        self.append(b"[dlenv] %s\n" % text.encode("utf-8", "surrogateescape"))

    def flush(self) -> None:
        """Try again what the disk refused."""
        try:
            self._write()
            if self.size > self._cap and self._tail is None:
                self._leave_out_middle()
        except OSError as error:
            self.trouble = str(error.strerror)
            self.hopeless = error.errno not in PASSING

    def finish(self) -> None:
        """Write what was kept back, and say what went wrong on the way."""
        tail, self._tail = self._tail, None
        if tail:
            lines = self._notice() + tail[tail.find(b"\n") + 1 :]
            self._cap = sys.maxsize
            self.append(lines)
        if self.trouble and not self.blocked:
            self.note(f"Writing the log failed for a while: {self.trouble}.")

    def _write(self) -> None:
        if self._merged is None:
            self._open()
        while self._waiting:
            lines, origin = self._waiting[0]
            if origin is not None and self._merged is not None:
                self._merged.note(origin._replace(log_begin=self.size, log_end=self.size + len(lines)))
                self._waiting[0] = (lines, None)
            written = os.pwrite(self._descriptor, lines, self.size)
            self.size += written
            self._waiting[:1] = [(lines[written:], None)] if written < len(lines) else []
        if not self._gap and self.size >= self._cap // 2:
            self._gap = self.size

    def _open(self) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
        if self._descriptor < 0:
            self._descriptor = os.open(os.path.join(self._folder, b"log"), flags, 0o644)
            self.size = os.fstat(self._descriptor).st_size
        self._merged = Merged(os.open(os.path.join(self._folder, NAME), flags | os.O_TRUNC, 0o644), {})

    def _notice(self) -> bytes:
        return b"[dlenv] The log passed its limit of %d bytes: its middle is left out here.\n" % self._cap

    def _leave_out_middle(self) -> None:
        end = self.size - self._cap // 2
        notice = self._notice()
        if end - max(self._gap, self._gap_end) < (self._cap // 8 if self._gap_end else len(notice)):
            return
        if give_back(self._descriptor, self._gap + len(notice), end):
            os.pwrite(self._descriptor, notice, self._gap)
            self._gap_end = end
        else:
            self._tail = b""
