"""A job as it is told to others, and pieces of its log."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..engines.folder import RunFolder
from ..spec import JobState, JobStatus
from .records import Final, JobFolder, JobRecord


@dataclass(frozen=True)
class JobView:
    """A job with what is known of its end.

    Attributes:
        attempt: The attempt that runs, waits, or was the last one.
        code: What is said of the copy of its code, empty where none was made.
    """

    record: JobRecord
    status: JobStatus
    final: Final | None
    folder: JobFolder
    attempt: int = 1
    code: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the job as the REST contract describes it."""
        return dict(self._ended if self.final else self._now())

    def to_text(self) -> bytes:
        """Return the same as JSON text, which of an ended job is written once."""
        return self._ended_text if self.final else _text(self._now())

    @cached_property
    def _ended_text(self) -> bytes:
        return _text(self._ended)

    @cached_property
    def _ended(self) -> dict[str, Any]:
        """The same of a job that has ended, which changes no more."""
        return self._now()

    @property
    def log_attempt(self) -> int:
        """The attempt whose log there is to read: one that has not begun has none, or never will have one."""
        begun = self.attempt == 1 or self.folder.run_of(self.attempt).is_dir()
        return self.attempt if begun else self.attempt - 1

    def _now(self) -> dict[str, Any]:
        run = self.folder.run_of(self.log_attempt)
        size = self.final.log_bytes if self.final and self.final.log_bytes else RunFolder(run).log_size()
        return job_json(self, run / "log", size)


@dataclass(frozen=True)
class LogFrame:
    """A piece of a job's log with the job's state; ``job`` is set on the last one.

    Attributes:
        message: What a job waits for.
        attempt: Whose log this is.
    """

    data: bytes
    cursor: str
    open_lines: Mapping[str, str]
    state: JobState
    job: JobView | None = None
    message: str = ""
    attempt: int = 1


def _text(data: Mapping[str, Any]) -> bytes:
    return json.dumps(data, ensure_ascii=False).encode("utf-8", "replace")


def job_json(view: JobView, log_path: Path, log_bytes: int) -> dict[str, Any]:
    """Return a job as the REST contract describes it."""
    final, status = view.final or Final(view.status), view.status
    return {
        **vars(view.record),  # not asdict, which copies everything, for each job of a long history
        **vars(status),
        "state": status.state.value,
        "reason": status.reason.value if status.reason else None,
        "host": view.record.host.get("name", ""),
        "attempt": view.attempt,
        "attempts": view.record.retries + 1,
        "code": view.code,
        "debugger": "" if view.final else view.folder.debugger_note(),
        "traceback": final.traceback,
        "failed_rank": final.failed_rank,
        "failed_node": final.failed_node,
        "cause": final.cause,
        "evidence": final.evidence,
        "remedy": final.remedy,
        "log_path": str(log_path),
        "log_bytes": log_bytes,
    }
