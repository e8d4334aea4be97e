"""A job's run folder, seen from the host: what the shims are told, and what they and the command wrote.

The containers can write every file in it, so whatever is read here may be a trap (see ``safe_files``).
"""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import os
import re
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ..errors import EngineError, InvalidRequest
from ..i18n import _
from ..spec import End, RankLogs
from .base import LogChunk
from .safe_files import LONGEST_LINE, SafeFolder, whole_lines

PIECE_BYTES = 1 << 20
DEFAULT_LOG_CAP_BYTES = 20 << 30
TORCHRUN_LOGS = RankLogs("ranks/*/attempt_*/*/std*.log", -2)
CAUSES = ("exited", "stopped", "timeout", "gang", "done")

_MAX_RANK_FILES, _MAX_REPLICAS, _LOG_ERROR = 512, 1 << 10, 300
_POLL_S, _ASK_S, _BEAT_S = (0.02, 0.05), 0.25, 1.0
_CURSOR = re.compile(r"([0-9a-f]{1,15})-([0-9a-f]{8})")
_RANK = re.compile(r"[0-9]{1,6}")


@dataclass(frozen=True)
class ShimResult:
    """How a command ended, as its shim wrote it down.

    Attributes:
        exit_code: As shells say it: 128 and more for a signal, 126 and 127 when nothing could be run.
        cause: ``exited``, ``stopped``, ``timeout``, ``gang`` (another replica failed) or ``done`` (no more was wanted
            of it, so its exit code is 0).
        started_at, finished_at: Seconds since the epoch.
        log_bytes: Size of the log; 0 from a replica that does not write it.
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
        self.files = SafeFolder(path)

    def node(self, index: int) -> RunFolder:
        """Return the folder of one of the replicas here: the first one's is this one."""
        return RunFolder(self.path / f"node-{index}") if index else self

    def create(self, uid: int = -1, gid: int = -1, *, replicas: int = 1) -> None:
        """Make the folders, for their owner alone; ``uid`` and ``gid`` give them to whom the containers run as."""
        for index in range(replicas):
            self.node(index).files.make(("raw", "ranks"), uid, gid)

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
        replicas: int = 1,
        first_rank: int = 0,
        node_rank: int = 0,
        ends: End = End.ALL,
        processes: Sequence[Mapping[str, Any]] = (),
        peers: Sequence[str] = (),
        note: str = "",
    ) -> None:
        """Tell the shim of this replica what to run, ``argv`` or else ``processes`` side by side.

        Args:
            env: What comes on top of what the shim has.
            grace_s: Seconds from interrupt to terminate, and from terminate to kill.
            log_cap_bytes: Beyond that the log's middle is left out.
            forward_signals: Whether signals are handed on rather than understood as a wish to end.
            replicas: How many share the run folder.
            first_rank, node_rank: Ranks in the whole job of the first process here, and of this replica.
            processes: ``argv``, ``env``, ``name`` and ``serves`` of each.
            peers: Names that must have an address before the command starts.
            note: What the log's first line says.

        Raises:
            InvalidRequest: The command is empty, or something cannot be passed to a process.
        """
        _refuse_unrunnable(argv, cwd, env or {}, processes)
        launch = {
            "argv": list(argv),
            "cwd": cwd,
            "env": dict(env or {}),
            "timeout_s": timeout_s,
            "grace_s": grace_s,
            "rank_logs": asdict(rank_logs) if rank_logs else None,
            "log_cap_bytes": log_cap_bytes,
            "forward_signals": forward_signals,
            "replicas": replicas,
            "first_rank": first_rank,
            "node_rank": node_rank,
            "ends": ends.value,
            "processes": list(processes),
            "peers": list(peers),
            "note": note,
        }
        self.files.write("launch.json", json.dumps(launch).encode(), 0o600)

    def write_secrets(self, values: Mapping[str, str]) -> None:
        """Hand variables to the command that nothing else sees; the shim removes the file before the command starts.

        Raises:
            InvalidRequest: A name or value cannot be passed to a process.
        """
        _refuse_unpassable([], values)
        self.files.write("secrets.json", json.dumps(dict(values)).encode(), 0o600)

    def request_stop(self, *, kill: bool = False) -> None:
        """Ask the shim to end the command: step by step, or at once with ``kill``.

        Raises:
            EngineError: The folder does not take the request.
        """
        if not kill and os.path.lexists(self.path / "stop"):
            return  # it may say "kill"
        try:
            self.files.write("stop", b"kill" if kill else b"", 0o644)
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
        with self.files.opened("log") as log:
            data, offset = (b"", offset) if log is None else whole_lines(log, offset, max(limit, 1), final)
        return data, self._cursor(offset)

    def log_size(self) -> int:
        """Return the size of the log in bytes, a left-out middle counted."""
        with self.files.opened("log") as log:
            return 0 if log is None else os.fstat(log).st_size

    def tail_cursor(self, max_bytes: int) -> str:
        """Return the cursor of the first line that begins in the log's last ``max_bytes`` bytes."""
        with self.files.opened("log") as log:
            offset = 0 if log is None else max(0, os.fstat(log).st_size - max_bytes)
            if log is not None and offset:
                before = os.pread(log, min(max_bytes, LONGEST_LINE) + 1, offset - 1)
                offset += max(0, before.find(b"\n"))
        return self._cursor(offset)

    def log_tail(self, max_bytes: int = 1 << 16) -> bytes:
        """Return the lines that begin in the log's last ``max_bytes`` bytes."""
        return self.read_log(self.tail_cursor(max_bytes), max_bytes, final=True)[0]

    def open_lines(self, cursor: str = "") -> dict[str, str]:
        """Return the unfinished line (a progress bar) of each rank; the launcher's own has the key ``launcher``.

        Lines that are older than the log before a cursor are left out: they may stand in it, finished.
        """
        tail = self.files.json("tail.json")
        texts, log_bytes = tail.get("open"), tail.get("log_bytes")
        outdated = isinstance(log_bytes, int) and log_bytes < self.offset(cursor)
        if outdated or not isinstance(texts, dict):
            return {}
        found = itertools.islice(texts.items(), _MAX_RANK_FILES)
        return {_printable(rank): _printable(text) for rank, text in found if isinstance(text, str)}

    def result(self) -> ShimResult | None:
        """Return how the command ended, None while it runs or when nothing believable is there."""
        values = self.files.json("result.json")
        known: dict[str, Any] = {field.name: values.get(field.name) for field in fields(ShimResult)}
        if not _believable(known):
            return None
        known["log_error"] = known["log_error"] and "".join(filter(str.isprintable, known["log_error"]))[:_LOG_ERROR]
        return ShimResult(**known)

    def results(self, replicas: int) -> list[ShimResult | None]:
        """Return how each replica here ended."""
        return [self.node(index).result() for index in range(replicas)]

    def first_failure(self) -> int | None:
        """Return which replica here failed first, None where none has told."""
        index = self.files.json("first").get("index")
        return index if type(index) is int and 0 <= index < _MAX_REPLICAS else None

    def launcher_text(self, last_bytes: int = 1 << 16) -> str:
        """Return the end of what the launched process itself wrote."""
        return self.files.text(("raw", "launcher.log"), last_bytes)

    def rank_texts(self, last_bytes: int = 1 << 16, logs: RankLogs = TORCHRUN_LOGS) -> dict[int, tuple[str, str]]:
        """Return the ends of each rank's standard output and error, of its last attempt."""
        texts: dict[int, tuple[str, str]] = {}
        found = [path for path in self.files.find(logs.pattern.split("/")) if _RANK.fullmatch(path[logs.rank_part])]
        for path in sorted(found, key=lambda path: (len("/".join(path)), path))[-_MAX_RANK_FILES:]:
            stdout, stderr = texts.get(rank := int(path[logs.rank_part]), ("", ""))
            text = self.files.text(path, last_bytes)
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
        lines = folder.open_lines(cursor)
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


def _refuse_unrunnable(
    argv: Sequence[str], cwd: str, env: Mapping[str, str], processes: Sequence[Mapping[str, Any]]
) -> None:
    commands = [process["argv"] for process in processes] or [argv]
    if not all(commands):
        raise InvalidRequest(_("There is no command to run."))
    _refuse_unpassable([*argv, cwd, *itertools.chain.from_iterable(commands)], env)
    for process in processes:
        _refuse_unpassable([], process.get("env") or {})


def _refuse_unpassable(texts: Iterable[str], env: Mapping[str, str]) -> None:
    for text in [*texts, *env, *env.values()]:
        if "\0" in text:
            raise InvalidRequest(_("{text!r} holds a NUL, which no process can be given.").format(text=text[:80]))
    for name in env:
        if not name or "=" in name:
            raise InvalidRequest(_("{name!r} cannot name a variable.").format(name=name[:80]))


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
        and values["cause"] in CAUSES
        and all(
            type(value) in (int, float) and 0 <= value < 1e12 for value in (values["started_at"], values["finished_at"])
        )
        and isinstance(values["log_error"], str | None)
        and isinstance(values["oom_kills"], int | None)
    )
