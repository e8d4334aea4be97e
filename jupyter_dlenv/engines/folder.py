"""A job's run folder, seen from the host: what the shim is told, and what it and the command wrote.

The container can write every file in it, so whatever is read here may be a trap: each path component is opened for
itself, links are not followed, nothing but a regular file is read, and no read is unbounded.
"""

from __future__ import annotations

import asyncio
import errno
import fnmatch
import itertools
import json
import math
import os
import re
import secrets
import stat
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ..errors import EngineError, InvalidRequest
from ..i18n import _
from ..spec import RankLogs
from .base import LogChunk

PIECE_BYTES = 1 << 20
DEFAULT_LOG_CAP_BYTES = 20 << 30
TORCHRUN_LOGS = RankLogs("ranks/*/attempt_*/*/std*.log", -2)

_LONGEST_LINE = (4 << 20) + (1 << 10)  # the shim cuts lines at 4 MiB and adds a prefix and a remark
_JSON_BYTES, _MAX_ENTRIES, _MAX_RANK_FILES = 1 << 20, 1 << 14, 512
_POLL_S, _ASK_S, _BEAT_S = (0.02, 0.05), 0.25, 1.0
_CURSOR = re.compile(r"([0-9a-f]{1,15})-([0-9a-f]{8})")
_RANK = re.compile(r"[0-9]{1,6}")
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_NOTHING_THERE = frozenset(
    # EAGAIN: the container holds a lease on the file, which an ordinary open would wait for.
    (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EACCES, errno.EPERM, errno.ENXIO, errno.EAGAIN)
)


@dataclass(frozen=True)
class ShimResult:
    """How a command ended, as its shim wrote it down.

    Attributes:
        exit_code: As shells say it: 128 and more for a signal, 126 and 127 when nothing could be run.
        cause: ``exited``, ``stopped`` or ``timeout``.
        started_at, finished_at: Seconds since the epoch.
        log_bytes: Size of the log.
        log_error: Why writing the log failed for a while, None when it never did.
        oom_kills: How many of its processes the kernel killed for memory, None when not known.
    """

    exit_code: int
    signal: int | None
    cause: str
    started_at: float
    finished_at: float
    log_bytes: int
    log_error: str | None = None
    oom_kills: int | None = None


class RunFolder:
    """The run folder of one attempt of one job, at a path of the host."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def create(self, uid: int = -1, gid: int = -1) -> None:
        """Make the folder, for its owner alone; ``uid`` and ``gid`` give it to whom the container runs as."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _open_at(None, str(self.path), _DIRECTORY) as root:
            for name in ("raw", "ranks", "."):
                with suppress(FileExistsError):
                    os.mkdir(name, dir_fd=root)
                with _open_at(root, name, _DIRECTORY) as folder:
                    os.fchmod(folder, 0o700)
                    os.fchown(folder, uid, gid)

    def write_launch(
        self,
        argv: Sequence[str],
        cwd: str,
        env: Mapping[str, str] | None = None,
        *,
        timeout_s: float | None = None,
        grace_s: tuple[float, float] = (5, 5),
        rank_logs: RankLogs | None = None,
        log_cap_bytes: int = DEFAULT_LOG_CAP_BYTES,
        forward_signals: bool = False,
    ) -> None:
        """Tell the shim what to run.

        ``env`` comes on top of what the shim has; ``timeout_s`` and the two steps of ``grace_s`` (interrupt to
        terminate, terminate to kill) are seconds; beyond ``log_cap_bytes`` the log's middle is left out.

        Raises:
            InvalidRequest: The command is empty, or something cannot be passed to a process.
        """
        if not argv:
            raise InvalidRequest(_("There is no command to run."))
        _refuse_unpassable([*argv, cwd], env or {})
        launch = {
            "argv": list(argv),
            "cwd": cwd,
            "env": dict(env or {}),
            "timeout_s": timeout_s,
            "grace_s": grace_s,
            "rank_logs": asdict(rank_logs) if rank_logs else None,
            "log_cap_bytes": log_cap_bytes,
            "forward_signals": forward_signals,
        }
        self._write("launch.json", json.dumps(launch).encode(), 0o600)

    def write_secrets(self, values: Mapping[str, str]) -> None:
        """Hand variables to the command that nothing else sees; the shim removes the file before the command starts.

        Raises:
            InvalidRequest: A name or value cannot be passed to a process.
        """
        _refuse_unpassable([], values)
        self._write("secrets.json", json.dumps(dict(values)).encode(), 0o600)

    def request_stop(self, *, kill: bool = False) -> None:
        """Ask the shim to end the command: step by step, or at once with ``kill``.

        Raises:
            EngineError: The folder does not take the request.
        """
        if not kill and os.path.lexists(self.path / "stop"):
            return  # it may say "kill"
        try:
            self._write("stop", b"kill" if kill else b"", 0o644)
        except OSError as error:
            raise EngineError(
                _("The job could not be asked to stop: {error}").format(error=error), hint=f"ls -la {self.path}"
            ) from error

    def read_log(self, cursor: str = "", limit: int = PIECE_BYTES, *, final: bool = False) -> tuple[bytes, str]:
        """Return the next whole lines of the log, about ``limit`` bytes, and the cursor after them.

        A single longer line comes whole. With ``final`` an unfinished line at the end comes too.

        Raises:
            InvalidRequest: The cursor is none of this folder's.
        """
        offset = self.offset(cursor)
        with self._opened("log") as log:
            data, offset = (b"", offset) if log is None else _whole_lines(log, offset, max(limit, 1), final)
        return data, self._cursor(offset)

    def log_size(self) -> int:
        """Return the size of the log in bytes, a left-out middle counted."""
        with self._opened("log") as log:
            return 0 if log is None else os.fstat(log).st_size

    def tail_cursor(self, max_bytes: int) -> str:
        """Return the cursor of the first line that begins in the log's last ``max_bytes`` bytes."""
        with self._opened("log") as log:
            offset = 0 if log is None else max(0, os.fstat(log).st_size - max_bytes)
            if log is not None and offset:
                before = os.pread(log, min(max_bytes, _LONGEST_LINE) + 1, offset - 1)
                offset += max(0, before.find(b"\n"))
        return self._cursor(offset)

    def log_tail(self, max_bytes: int = 1 << 16) -> bytes:
        """Return the lines that begin in the log's last ``max_bytes`` bytes."""
        return self.read_log(self.tail_cursor(max_bytes), max_bytes, final=True)[0]

    def open_lines(self) -> dict[str, str]:
        """Return the unfinished line (a progress bar) of each rank; the launcher's own has the key ``launcher``."""
        texts = self._json("tail.json").get("open")
        if not isinstance(texts, dict):
            return {}
        found = itertools.islice(texts.items(), _MAX_RANK_FILES)
        return {_printable(rank): _printable(text) for rank, text in found if isinstance(text, str)}

    def result(self) -> ShimResult | None:
        """Return how the command ended, None while it runs or when nothing believable is there."""
        values = self._json("result.json")
        known: dict[str, Any] = {field.name: values.get(field.name) for field in fields(ShimResult)}
        return ShimResult(**known) if _believable(known) else None

    def launcher_text(self, last_bytes: int = 1 << 16) -> str:
        """Return the end of what the launched process itself wrote."""
        return self._text(("raw", "launcher.log"), last_bytes)

    def rank_texts(self, last_bytes: int = 1 << 16, logs: RankLogs = TORCHRUN_LOGS) -> dict[int, tuple[str, str]]:
        """Return the ends of each rank's standard output and error, of its last attempt."""
        texts: dict[int, tuple[str, str]] = {}
        found = [path for path in self._find(logs.pattern.split("/")) if _RANK.fullmatch(path[logs.rank_part])]
        for path in sorted(found, key=lambda path: (len("/".join(path)), path))[-_MAX_RANK_FILES:]:
            stdout, stderr = texts.get(rank := int(path[logs.rank_part]), ("", ""))
            text = self._text(path, last_bytes)
            texts[rank] = (stdout, text) if "stderr" in path[-1] else (text, stderr)
        return texts

    def _cursor(self, offset: int) -> str:
        return f"{offset:x}-{zlib.crc32(f'{self.path}:{offset}'.encode('utf-8', 'surrogateescape')):08x}"

    def offset(self, cursor: str) -> int:
        """Return how many bytes of the log lie before a cursor.

        Raises:
            InvalidRequest: The cursor is none of this folder's.
        """
        match = _CURSOR.fullmatch(cursor)
        offset = int(match.group(1), 16) if match else 0
        if cursor and cursor != self._cursor(offset):
            raise InvalidRequest(
                _("{cursor!r} is no cursor of this log.").format(cursor=cursor[:80]),
                hint=_("Read from the start with an empty cursor."),
            )
        return offset

    @contextmanager
    def _opened(self, *parts: str, flags: int = _FILE) -> Iterator[int | None]:
        """Open a file below the folder; None where no regular file (or, with ``_DIRECTORY``, no folder) is."""
        with ExitStack() as opened:
            found: int | None = None
            try:
                for depth, name in enumerate((str(self.path), *parts)):
                    found = opened.enter_context(_open_at(found, name, flags if depth == len(parts) else _DIRECTORY))
            except OSError as error:
                if error.errno not in _NOTHING_THERE:
                    raise
                found = None
            is_wanted = stat.S_ISDIR if flags == _DIRECTORY else stat.S_ISREG
            yield found if found is not None and is_wanted(os.fstat(found).st_mode) else None

    def _json(self, name: str) -> dict[str, Any]:
        """Return an object that a small file holds, an empty one when it holds anything else."""
        with self._opened(name) as file:
            data = b"" if file is None else os.pread(file, _JSON_BYTES + 1, 0)
        try:
            value = json.loads(data) if len(data) <= _JSON_BYTES else None
        except (ValueError, RecursionError):
            return {}
        return value if isinstance(value, dict) else {}

    def _text(self, parts: Sequence[str], last_bytes: int) -> str:
        with self._opened(*parts) as file:
            if file is None:
                return ""
            data = os.pread(file, last_bytes, max(0, os.fstat(file).st_size - last_bytes))
        return data.decode("utf-8", "replace")

    def _find(self, pattern: Sequence[str]) -> list[tuple[str, ...]]:
        """Return what matches a pattern, one component at a time; absurdly many entries are not all looked at."""
        found: list[tuple[str, ...]] = [()]
        for part in pattern:
            entries = itertools.islice(self._entries(found), _MAX_ENTRIES)
            found = [path for path in entries if fnmatch.fnmatchcase(path[-1], part)]
        return found

    def _entries(self, folders: Iterable[tuple[str, ...]]) -> Iterator[tuple[str, ...]]:
        for parts in folders:
            with self._opened(*parts, flags=_DIRECTORY) as folder:
                if folder is not None:
                    with os.scandir(folder) as entries:
                        yield from ((*parts, entry.name) for entry in entries)

    def _write(self, name: str, data: bytes, mode: int) -> None:
        """Put a file in place at once, owned like the folder, whatever was there under its name."""
        temporary = f".{name}.{secrets.token_hex(8)}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with _open_at(None, str(self.path), _DIRECTORY) as root:
            try:
                with open(os.open(temporary, flags, mode, dir_fd=root), "wb") as file:
                    file.write(data)
                    os.fchmod(file.fileno(), mode)
                    owner = os.fstat(root)
                    if owner.st_uid != os.geteuid():
                        os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
                os.rename(temporary, name, src_dir_fd=root, dst_dir_fd=root)
            except OSError:
                with suppress(FileNotFoundError):
                    os.unlink(temporary, dir_fd=root)
                raise


async def follow(folder: RunFolder, cursor: str, ended: Callable[[], Awaitable[bool]]) -> AsyncIterator[LogChunk]:
    """Yield the log from a cursor on as it grows, until ``ended`` says so and the log was read to its end.

    A changed unfinished line is a chunk without data. So is a quiet moment after news, for viewers that show only some
    chunks, and a second in which nothing happened, for their clocks.

    Raises:
        InvalidRequest: The cursor is none of this folder's.
    """
    shown: dict[str, str] = {}
    delay_s, asked_at, told_at, beat_s, waited = _POLL_S[0], -math.inf, time.monotonic(), _BEAT_S, False
    end: int | None = None
    while True:
        before = cursor
        # An unfinished line at the end may be one that is just being written: it is looked at twice.
        data, cursor = folder.read_log(cursor, final=waited)
        lines = folder.open_lines()
        news = bool(data) or lines != shown
        if news or time.monotonic() - told_at > beat_s:
            shown, told_at, beat_s = lines, time.monotonic(), _ASK_S if news else _BEAT_S
            yield LogChunk(data, cursor, lines)
        if end is not None and (waited or folder.offset(cursor) >= end):
            return
        # Asked while there is more to read, too: a log may grow faster than anybody reads it.
        due = time.monotonic() - asked_at > _ASK_S or (cursor == before and folder.result() is not None)
        if end is None and due:
            asked_at = time.monotonic()
            if await ended():
                end = folder.log_size()
                continue
        if cursor != before:
            delay_s = _POLL_S[0]
            await asyncio.sleep(0)
            continue
        waited = end is not None
        await asyncio.sleep(delay_s)
        delay_s = min(delay_s * 1.5, _POLL_S[1])


@contextmanager
def _open_at(folder: int | None, name: str, flags: int) -> Iterator[int]:
    descriptor = os.open(name, flags, dir_fd=folder)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _refuse_unpassable(texts: Iterable[str], env: Mapping[str, str]) -> None:
    for text in [*texts, *env, *env.values()]:
        if "\0" in text:
            raise InvalidRequest(_("{text!r} holds a NUL, which no process can be given.").format(text=text[:80]))
    for name in env:
        if not name or "=" in name:
            raise InvalidRequest(_("{name!r} cannot name a variable.").format(name=name[:80]))


def _extent(log: int, offset: int) -> tuple[int, int]:
    """Return where the next written bytes begin and end; the left-out middle of a log is a hole in the file."""
    info = os.fstat(log)
    if offset >= info.st_size:
        return offset, offset
    if info.st_blocks * 512 >= info.st_size:
        return offset, info.st_size
    try:
        begin = os.lseek(log, offset, os.SEEK_DATA)
        return begin, os.lseek(log, begin, os.SEEK_HOLE)
    except OSError as error:
        # Nothing but a hole up to the end, or a file system that does not know its holes.
        return (info.st_size,) * 2 if error.errno == errno.ENXIO else (offset, info.st_size)


def _whole_lines(log: int, offset: int, limit: int, final: bool) -> tuple[bytes, int]:
    begin, end = _extent(log, offset)
    data = os.pread(log, min(limit, end - begin), begin)
    endless = False
    if b"\n" not in data and len(data) == limit:
        data = os.pread(log, min(max(limit, _LONGEST_LINE), end - begin), begin)
        newline = data.find(b"\n") + 1
        endless = not newline and len(data) >= _LONGEST_LINE  # no line of the shim's
        data = data[: newline or (limit if endless else len(data))]
    before_hole = end < os.fstat(log).st_size and begin + len(data) == end
    if not (final or endless or before_hole):
        data = data[: data.rfind(b"\n") + 1]
    read = begin + len(data)
    if begin > offset:
        data = data[data.find(b"\n") + 1 :]  # the hole ends within a line
    return data.rstrip(b"\0") if before_hole else data, read


def _printable(text: str) -> str:
    return text[:4096].encode("utf-8", "replace").decode()


def _believable(values: Mapping[str, Any]) -> bool:
    """Tell whether a result file's values are what the shim writes."""
    whole = (values["exit_code"], values["signal"] or 0, values["log_bytes"])
    return (
        all(type(value) is int for value in whole)
        and 0 <= values["exit_code"] < 256
        and 0 <= whole[1] < 65
        and 0 <= values["log_bytes"] < 1 << 63
        and values["cause"] in ("exited", "stopped", "timeout")
        and all(
            type(value) in (int, float) and 0 <= value < 1e12 for value in (values["started_at"], values["finished_at"])
        )
        and isinstance(values["log_error"], str | None)
        and isinstance(values["oom_kills"], int | None)
    )
