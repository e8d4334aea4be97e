"""The metrics of jobs: read from their logs as these grow, kept in the job's folder when they have ended."""

from __future__ import annotations

import atexit
import sys
import threading
import time
from pathlib import Path
from typing import Any

from ..atomic import write_text
from ..engines.folder import RunFolder
from ..i18n import _
from .metrics import MetricReader
from .records import JobFolder, JobRecord
from .tables import HEADER, MOST_NUMBERS, Kept, csv_lines, read_csv

_MOST_READERS = 32
_PIECE_BYTES = 1 << 18
_AT_ONCE_BYTES = 4 << 20
_PATIENCE_S = 2.0  # of whoever looks; the next look goes on from there
_LAST_PATIENCE_S = 10.0  # once a job has ended there may be no other look
_EXIT_PATIENCE_S = 30.0
_WITH_NAMES = frozenset({"tensorflow-ps", "paddle-ps", "mxnet", "horovod"})
"""Launchers some of whose processes have names."""


class _Measured:
    """What was found so far in the logs of one job's attempts."""

    def __init__(self, folder: JobFolder, record: JobRecord) -> None:
        self._folder = folder
        self._reader = _reader_of(record)
        self._kept = Kept(named=self._reader.names)
        self._lock = threading.Lock()
        self._attempt, self._cursor = 1, ""
        self._whole, self._table = False, _answer(self._kept, "")

    def look(self, patience_s: float) -> tuple[dict[str, Any], bool]:
        """Read on for so long at most; return the table, and whether all of the log is in it.

        A log can be of any size, and its lines are written by a stranger.
        """
        until = time.monotonic() + patience_s
        if self._lock.acquire(timeout=patience_s):  # another thread that reads has its table renewed now and then
            try:
                before = self._attempt, self._cursor
                self._whole = self._read(until)
                if before != (self._attempt, self._cursor):
                    self._table = _answer(self._kept, self._note())
            finally:
                self._lock.release()
        return self._table, self._whole

    def _read(self, until: float) -> bool:
        latest = self._folder.attempt
        while time.monotonic() < until:
            before = self._cursor
            data, self._cursor = RunFolder(self._folder.run_of(self._attempt)).read_log(before, _PIECE_BYTES)
            self._kept.add(self._reader.feed(data))
            if data and self._cursor != before:
                continue
            if self._attempt >= latest:
                return True
            self._attempt, self._cursor = self._attempt + 1, ""
        return False

    def keep(self) -> None:
        """Read on to the end, and write the table into the job's folder."""
        while not self.look(_PATIENCE_S)[1]:
            pass
        try:
            write_text(self._folder.metrics, HEADER + csv_lines(self._kept.rows()), durable=False)
            if note := self._note():
                write_text(_note_file(self._folder), note, durable=False)
        except OSError:
            return  # a full disk, or a job that was removed; the log has them still
        with _LOCK:
            _READERS.pop(self._folder.path.name, None)

    def _note(self) -> str:
        """Return what has to be said of numbers that are not there."""
        slow = _("--plot {pattern!r} took too long and is not searched for any more.")
        notes = [slow.format(pattern=pattern[:80]) for pattern in self._reader.dropped]
        if self._kept.left_out:
            notes.append(_("There are too many metrics to keep; those that came first are. --plot names others."))
        if self._kept.thinned:
            notes.append(_("Of more than {n} numbers some are kept, evenly from the whole log.").format(n=MOST_NUMBERS))
        return "\n".join(notes)


_READERS: dict[str, _Measured] = {}
_KEEPING: dict[str, threading.Thread] = {}
_LOCK = threading.Lock()


def measured(folder: JobFolder, record: JobRecord, *, ended: bool) -> dict[str, Any]:
    """Return the table of a job's metrics as the API tells it. Reads in this thread, for some seconds at most."""
    try:
        text = folder.metrics.read_text(encoding="utf-8")
    except FileNotFoundError:
        found = _reader(folder, record)
        table, whole = found.look(_LAST_PATIENCE_S if ended else _PATIENCE_S)
        if ended and whole:
            found.keep()
        elif ended:
            _keep_later(record.id, found)
        return table
    return _answer(Kept(read_csv(text), _reader_of(record).names), _kept_note(folder))


def keep_metrics(folder: JobFolder, record: JobRecord, log_bytes: int) -> None:
    """Keep the table of a job that has ended; that of a long log comes later, and this returns at once."""
    found = _reader(folder, record)
    if log_bytes <= _AT_ONCE_BYTES:
        found.keep()
    else:
        _keep_later(record.id, found)


def _keep_later(job_id: str, found: _Measured) -> None:
    with _LOCK:
        for ended in [each for each, thread in _KEEPING.items() if not thread.is_alive()]:
            del _KEEPING[ended]
        if job_id not in _KEEPING:
            _KEEPING[job_id] = threading.Thread(target=found.keep, name="dlenv-metrics", daemon=True)
            _KEEPING[job_id].start()


@atexit.register
def _finish_keeping() -> None:
    """Wait for what is still being kept: a command line ends as soon as its job has."""
    until = time.monotonic() + _EXIT_PATIENCE_S
    for job_id, thread in list(_KEEPING.items()):
        thread.join(max(until - time.monotonic(), 0))
        if thread.is_alive():
            text = _(
                "The metrics of job {id} are not in its folder yet: its log is long. They come when they are asked for."
            )
            sys.stderr.write(text.format(id=job_id) + "\n")


def _reader_of(record: JobRecord) -> MetricReader:
    several = record.nodes * record.nproc > 1
    named = record.launcher in _WITH_NAMES
    return MetricReader(record.plot, ranked=several or named, named=named)


def _reader(folder: JobFolder, record: JobRecord) -> _Measured:
    with _LOCK:
        found = _READERS.pop(record.id, None) or _Measured(folder, record)
        while len(_READERS) >= _MOST_READERS:
            del _READERS[next(iter(_READERS))]  # nobody has asked for it for longest
        _READERS[record.id] = found
        return found


def _answer(kept: Kept, note: str) -> dict[str, Any]:
    return {**kept.table(), "note": note}


def _note_file(folder: JobFolder) -> Path:
    return folder.metrics.with_suffix(".txt")


def _kept_note(folder: JobFolder) -> str:
    try:
        return _note_file(folder).read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
