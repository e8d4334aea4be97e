"""Completes the log of a job whose shim was killed, or whose disk was full: every line once, none twice.

All containers of the attempt have ended; what they left is read as one reads a stranger's files.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

from .folder import DEFAULT_LOG_CAP_BYTES, RunFolder
from .shim.files import LAUNCHER_LOG
from .shim.limits import CHUNK
from .shim.lines import WRITTEN_ANEW, Lines
from .shim.merged import ENTRY_BYTES, MAX_ENTRIES, MAX_PATH, NAME, Entry, Merged, Progress, unpack
from .shim.nodes import Mark, Node

_PATIENCE_S, _ASK_S = 10.0, 0.05
_MAX_RANK = 1 << 20


@dataclass(frozen=True)
class _Raw:
    """One raw file: the replica that it is of, its path in that one's folder and below the run folder, and its mark."""

    index: int
    parts: tuple[str, ...]
    name: bytes
    mark: Mark


def complete(run: RunFolder, replicas: int = 1, cap_bytes: int = DEFAULT_LOG_CAP_BYTES) -> int:
    """Append to the log what the ranks wrote and it lacks; return how many bytes that are.

    A log that has passed its limit is not completed, which it then says.

    Args:
        cap_bytes: The log's limit, where the launch says nothing smaller.
    """
    with run.files.continued("alive") as lock:
        if lock is None or not _locked(lock):
            return 0
        with run.files.continued("log") as log, run.files.continued(NAME.decode()) as merged:
            if log is None or merged is None:
                return 0
            entries = unpack(os.pread(merged, MAX_ENTRIES * ENTRY_BYTES, 0))
            completion = _Completion(run, log, Merged(merged, entries), _cap(run, cap_bytes))
            with suppress(OSError):  # the disk is full still; what is noted lets another call go on
                completion.run({entry.path: entry for entry in entries.values()}, _raw_files(run, replicas))
                run.files.write("tail.json", json.dumps({"open": {}}).encode(), 0o644)
            return completion.added


class _Completion:
    """One look through all raw files.

    Attributes:
        added: How many bytes were appended.
    """

    def __init__(self, run: RunFolder, log: int, merged: Merged, cap: int) -> None:
        self.added = 0
        self._run = run
        self._log = log
        self._merged = merged
        self._cap = cap
        self._size = os.fstat(log).st_size
        self._budget = cap  # a sparse file may be endless

    def run(self, entries: Mapping[bytes, Entry], files: list[_Raw]) -> None:
        """Finish the piece that was being written, then append what is missing of each file."""
        if self._size > self._cap:
            self._give_up(entries, files)
            return
        for raw in files:
            last = entries.get(raw.name)
            if last is not None and last.log_end > self._size and self._is_there(raw, last):
                self._finish_piece(raw, last)
        if self._size and os.pread(self._log, 1, self._size - 1) != b"\n":
            self._write(b"\n")
        for raw in files:
            self._append_rest(raw, self._progress(raw, entries.get(raw.name)))

    def _finish_piece(self, raw: _Raw, entry: Entry) -> None:
        """Write the rest of a piece of which the log holds a part."""
        lines = Lines(raw.mark.prefix, cutting=entry.cut_before)
        skip = max(0, self._size - entry.log_begin)
        for data in self._read(raw, entry.begin, entry.end):
            data = data.replace(b"\0", b"") if entry.anew else data
            skip = self._write_after(skip, lines.feed(data))
        self._write_after(skip, lines.finish())
        self._merged.note(entry._replace(log_begin=min(entry.log_begin, self._size), log_end=self._size))

    def _append_rest(self, raw: _Raw, progress: Progress) -> None:
        lines = Lines(raw.mark.prefix, cutting=progress.cut)
        read = progress.end
        for data in self._read(raw, progress.end):
            read += len(data)
            whole = lines.feed(data.replace(b"\0", b"") if progress.anew else data)
            if whole:
                self._append(whole, progress.advance(read - lines.held, lines.cutting))
        last = lines.finish()
        if last:
            self._append(last, progress.advance(read, lines.cutting))

    def _progress(self, raw: _Raw, last: Entry | None) -> Progress:
        """Return how far a file is in the log: not at all where it was emptied since, as ``> /dev/stdout`` does."""
        progress = Progress(raw.name, last)
        if last is not None and not self._is_there(raw, last):
            progress.move(0)
            self._append(b"" if last.anew else raw.mark.prefix + WRITTEN_ANEW, progress.advance(0, cut=False))
        return progress

    def _is_there(self, raw: _Raw, entry: Entry) -> bool:
        """Tell whether a file still holds what its last piece came from, as far as its size and last bytes show."""
        with self._run.node(raw.index).files.opened(*raw.parts) as file:
            if file is None:
                return True
            check = os.pread(file, len(entry.check), max(0, entry.end - len(entry.check)))
            return bool(os.fstat(file).st_size >= entry.end and check == entry.check)

    def _give_up(self, entries: Mapping[bytes, Entry], files: list[_Raw]) -> None:
        missing = 0
        for raw in files:
            last = entries.get(raw.name)
            progress = Progress(raw.name, last)
            if last is not None and not self._is_there(raw, last):
                progress.move(0)
            with self._run.node(raw.index).files.opened(*raw.parts) as file:
                end = os.fstat(file).st_size if file is not None else 0
            if end > progress.end:
                missing += end - progress.end
                self._append(b"", progress.advance(end, cut=False))
        if missing:
            text = (
                "[dlenv] The log has passed its limit, so %d bytes that were not in it yet are in the raw files only.\n"
            )
            self._write(text.encode() % missing)

    def _append(self, lines: bytes, entry: Entry) -> None:
        self._merged.note(entry._replace(log_begin=self._size, log_end=self._size + len(lines)))
        self._write(lines)

    def _write_after(self, skip: int, lines: bytes) -> int:
        """Write lines less what is there already; return how much of that is still to come."""
        self._write(lines[skip:])
        return max(0, skip - len(lines))

    def _write(self, data: bytes) -> None:
        while data:
            written = os.pwrite(self._log, data, self._size)
            self._size += written
            self.added += written
            data = data[written:]

    def _read(self, raw: _Raw, begin: int, end: int | None = None) -> Iterator[bytes]:
        """Yield what a raw file holds."""
        with self._run.node(raw.index).files.opened(*raw.parts) as file:
            while file is not None and self._budget > 0 and (end is None or begin < end):
                data = os.pread(file, CHUNK if end is None else min(CHUNK, end - begin), begin)
                if not data:
                    return
                begin += len(data)
                self._budget -= len(data)
                yield data


def _locked(lock: int) -> bool:
    """Tell whether nobody else writes the log: its shim, or another process that completes it."""
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        with suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(_ASK_S)


def _cap(run: RunFolder, most: int) -> int:
    told = run.files.json("launch.json").get("log_cap_bytes")
    return told if type(told) is int and 0 < told < most else most


def _raw_files(run: RunFolder, replicas: int) -> list[_Raw]:
    """Return all raw files, ranks before launchers, standard output before error."""
    found = []
    for index in range(replicas):
        node, files = _node(run, index), run.node(index).files
        paths = files.find(node.pattern.split("/")) if node.pattern else []
        found += [_Raw(index, path, _name(node, path), node.rank("/".join(path))) for path in sorted(paths)[::-1]]
        launcher = tuple(LAUNCHER_LOG.split("/"))
        found.append(_Raw(index, launcher, _name(node, launcher), node.launcher()))
    return sorted((raw for raw in found if len(raw.name) <= MAX_PATH), key=lambda raw: raw.mark.order)


def _name(node: Node, path: tuple[str, ...]) -> bytes:
    return os.fsencode(node.folder + "/".join(path))


def _node(run: RunFolder, index: int) -> Node:
    """Return a replica as its launch describes it; one that nobody wrote so has no files of ranks."""
    launch = run.node(index).files.json("launch.json")
    logs, ranks = launch.get("rank_logs"), (launch.get("first_rank", 0), launch.get("node_rank", index))
    parts = logs.get("pattern") if isinstance(logs, dict) else None
    part = logs.get("rank_part") if isinstance(logs, dict) else None
    believable = all(type(rank) is int and 0 <= rank < _MAX_RANK for rank in ranks) and (
        logs is None
        or (isinstance(parts, str) and type(part) is int and -len(parts.split("/")) <= part < len(parts.split("/")))
    )
    return Node(index, launch if believable else {})
