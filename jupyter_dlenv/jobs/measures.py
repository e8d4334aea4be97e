"""The metrics of jobs: read from their logs as these grow, kept in the job's folder when they have ended."""

from __future__ import annotations

import threading
from typing import Any

from ..atomic import write_text
from ..engines.folder import RunFolder
from .metrics import MetricReader, Row
from .records import JobFolder, JobRecord
from .tables import HEADER, csv_lines, read_csv, table, thin

_MOST_ROWS = 1_000_000
_MOST_READERS = 64
_AT_ONCE_BYTES = 16 << 20


class _Measured:
    """What was found so far in the logs of one job's attempts."""

    def __init__(self, folder: JobFolder, record: JobRecord) -> None:
        self._folder = folder
        self._reader = MetricReader(record.plot)
        self._lock = threading.Lock()
        self._attempt, self._cursor = 1, ""
        self._rows: list[Row] = []

    def rows(self) -> list[Row]:
        """Read on to where the log ends now, and return all rows."""
        with self._lock:
            latest = self._folder.attempt
            while True:
                self._read()
                if self._attempt >= latest:
                    return self._rows
                self._attempt, self._cursor = self._attempt + 1, ""

    def _read(self) -> None:
        run = RunFolder(self._folder.run_of(self._attempt))
        while True:
            before = self._cursor
            data, self._cursor = run.read_log(before)
            self._rows += self._reader.feed(data)
            del self._rows[: max(len(self._rows) - _MOST_ROWS, 0)]
            if self._cursor == before or not data:
                return


_READERS: dict[str, _Measured] = {}
_LOCK = threading.Lock()


def measured(folder: JobFolder, record: JobRecord, *, ended: bool) -> dict[str, Any]:
    """Return the table of a job's metrics as the API tells it. Reads in this thread."""
    try:
        rows = read_csv(folder.metrics.read_text())
    except FileNotFoundError:
        rows = _reader(folder, record).rows()
        if ended:
            _keep(folder, rows)
    whole = table(rows)
    return {**thin(whole), "total": len(whole["rows"])}


def keep_metrics(folder: JobFolder, record: JobRecord, log_bytes: int) -> None:
    """Keep the table of a job that has ended; that of a long log comes later, and this returns at once."""

    def keep() -> None:
        _keep(folder, _reader(folder, record).rows())

    if log_bytes <= _AT_ONCE_BYTES:
        keep()
    else:
        threading.Thread(target=keep, name="dlenv-metrics", daemon=True).start()


def _reader(folder: JobFolder, record: JobRecord) -> _Measured:
    with _LOCK:
        while len(_READERS) >= _MOST_READERS:
            del _READERS[next(iter(_READERS))]
        return _READERS.setdefault(record.id, _Measured(folder, record))


def _keep(folder: JobFolder, rows: list[Row]) -> None:
    try:
        write_text(folder.metrics, HEADER + csv_lines(rows), durable=False)
    except OSError:
        return  # a full disk, or a job that was removed; the log has them still
    with _LOCK:
        _READERS.pop(folder.path.name, None)
