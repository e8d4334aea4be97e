"""A folder that strangers write, read and written as is safe there.

Whatever lies in it may be a trap: each path component is opened for itself, links are not followed, nothing but a
regular file is read, and no read is unbounded.
"""

from __future__ import annotations

import errno
import fnmatch
import itertools
import json
import os
import secrets
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
LONGEST_LINE = (4 << 20) + (1 << 10)  # the shim cuts lines at 4 MiB and adds a prefix and a remark

_JSON_BYTES, _MAX_ENTRIES = 1 << 20, 1 << 14
_NOTHING_THERE = frozenset(
    # EAGAIN: the container holds a lease on the file, which an ordinary open would wait for.
    (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EACCES, errno.EPERM, errno.ENXIO, errno.EAGAIN)
)


class SafeFolder:
    """The folder at a path of the host; the last component of the path may be the strangers' work too."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def opened(self, *parts: str, flags: int = FILE) -> Iterator[int | None]:
        """Open a file below the folder; None where no regular file (or, with ``DIRECTORY``, no folder) is."""
        with ExitStack() as opened:
            found: int | None = None
            try:
                for depth, name in enumerate((str(self.path), *parts)):
                    found = opened.enter_context(open_at(found, name, flags if depth == len(parts) else DIRECTORY))
            except OSError as error:
                if error.errno not in _NOTHING_THERE:
                    raise
                found = None
            is_wanted = stat.S_ISDIR if flags == DIRECTORY else stat.S_ISREG
            yield found if found is not None and is_wanted(os.fstat(found).st_mode) else None

    def make(self, names: Sequence[str], uid: int = -1, gid: int = -1) -> None:
        """Make the folder and some in it, for their owner alone; ``uid`` and ``gid`` give them away."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open_at(None, str(self.path), DIRECTORY) as root:
            for name in (*names, "."):
                with suppress(FileExistsError):
                    os.mkdir(name, dir_fd=root)
                with open_at(root, name, DIRECTORY) as folder:
                    os.fchmod(folder, 0o700)
                    os.fchown(folder, uid, gid)

    def json(self, name: str) -> dict[str, Any]:
        """Return an object that a small file holds, an empty one when it holds anything else."""
        with self.opened(name) as file:
            data = b"" if file is None else os.pread(file, _JSON_BYTES + 1, 0)
        try:
            value = json.loads(data) if len(data) <= _JSON_BYTES else None
        except (ValueError, RecursionError):
            return {}
        return value if isinstance(value, dict) else {}

    def text(self, parts: Sequence[str], last_bytes: int) -> str:
        """Return the end of a file."""
        with self.opened(*parts) as file:
            if file is None:
                return ""
            data = os.pread(file, last_bytes, max(0, os.fstat(file).st_size - last_bytes))
        return data.decode("utf-8", "replace")

    def find(self, pattern: Sequence[str]) -> list[tuple[str, ...]]:
        """Return what matches a pattern, one component at a time; absurdly many entries are not all looked at."""
        found: list[tuple[str, ...]] = [()]
        for part in pattern:
            entries = itertools.islice(self._entries(found), _MAX_ENTRIES)
            found = [path for path in entries if fnmatch.fnmatchcase(path[-1], part)]
        return found

    def remove(self, name: str) -> None:
        """Remove a file of the folder; one that is not there is fine, and so is a folder that is not."""
        with self.opened(flags=DIRECTORY) as root:
            if root is not None:
                with suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=root)

    def write(self, name: str, data: bytes, mode: int) -> None:
        """Put a file in place at once, owned like the folder, whatever was there under its name."""
        temporary = f".{name}.{secrets.token_hex(8)}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with open_at(None, str(self.path), DIRECTORY) as root:
            try:
                with open(os.open(temporary, flags, mode, dir_fd=root), "wb") as file:
                    file.write(data)
                    os.fchmod(file.fileno(), mode)
                    _own_like(file.fileno(), root)
                os.rename(temporary, name, src_dir_fd=root, dst_dir_fd=root)
            except OSError:
                with suppress(FileNotFoundError):
                    os.unlink(temporary, dir_fd=root)
                raise

    @contextmanager
    def continued(self, name: str, mode: int = 0o644) -> Iterator[int | None]:
        """Open a file for more, made where it is missing and owned like the folder; None where something else is."""
        with self.opened(flags=DIRECTORY) as root, ExitStack() as opened:
            found: int | None = None
            if root is not None:
                with suppress(FileExistsError):
                    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                    found = opened.enter_context(open_at(root, name, flags, mode))
                    _own_like(found, root)
            if found is None:
                found = opened.enter_context(self.opened(name, flags=FILE | os.O_RDWR))
            yield found

    def _entries(self, folders: Iterable[tuple[str, ...]]) -> Iterator[tuple[str, ...]]:
        for parts in folders:
            with self.opened(*parts, flags=DIRECTORY) as folder:
                if folder is not None:
                    with os.scandir(folder) as entries:
                        yield from ((*parts, entry.name) for entry in entries)


@contextmanager
def open_at(folder: int | None, name: str, flags: int, mode: int = 0o600) -> Iterator[int]:
    """Open a name in an open folder, None for a path of the host."""
    descriptor = os.open(name, flags, mode, dir_fd=folder)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def whole_lines(file: int, offset: int, limit: int, final: bool) -> tuple[bytes, int]:
    """Return the next whole lines of a file, about ``limit`` bytes, and the offset after them; holes are skipped."""
    begin, end = _extent(file, offset)
    data = os.pread(file, min(limit, end - begin), begin)
    endless = False
    if b"\n" not in data and len(data) == limit:
        data = os.pread(file, min(max(limit, LONGEST_LINE), end - begin), begin)
        newline = data.find(b"\n") + 1
        endless = not newline and len(data) >= LONGEST_LINE  # no line of the shim's
        data = data[: newline or (limit if endless else len(data))]
    before_hole = end < os.fstat(file).st_size and begin + len(data) == end
    if not (final or endless or before_hole):
        data = data[: data.rfind(b"\n") + 1]
    read = begin + len(data)
    if begin > offset:
        data = data[data.find(b"\n") + 1 :]  # the hole ends within a line
    return data.rstrip(b"\0") if before_hole else data, read


def _extent(file: int, offset: int) -> tuple[int, int]:
    """Return where the next written bytes begin and end; the left-out middle of a log is a hole in the file."""
    info = os.fstat(file)
    if offset >= info.st_size:
        return offset, offset
    if info.st_blocks * 512 >= info.st_size:
        return offset, info.st_size
    try:
        begin = os.lseek(file, offset, os.SEEK_DATA)
        return begin, os.lseek(file, begin, os.SEEK_HOLE)
    except OSError as error:
        # Nothing but a hole up to the end, or a file system that does not know its holes.
        return (info.st_size,) * 2 if error.errno == errno.ENXIO else (offset, info.st_size)


def _own_like(file: int, folder: int) -> None:
    owner = os.fstat(folder)
    if owner.st_uid != os.geteuid():
        os.fchown(file, owner.st_uid, owner.st_gid)
